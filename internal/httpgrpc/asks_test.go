package httpgrpc

import (
	"net/http/httptest"
	"testing"
)

func TestAsks(t *testing.T) {
	for query, want := range map[string]bool{
		"": false, "watch=1": true, "watch=true": true, "watch=True": true, "watch=yes": true, "watch": true, "watch=": true, "limit=5&watch": true,
		"watch=0": false, "watch=false": false, "watch=FALSE": false, "watch=0&watch=1": false, "watch=1&watch=0": true,
		"a=watch": false, "watches=1": false, "w%61tch=1": true, "fieldSelector=a%3Db": false, "fieldSelector=a%3Db&watch=true": true,
	} {
		if Asks(query, "watch") != want {
			t.Errorf("%q: %v", query, !want)
		}
	}
}

func TestWatches(t *testing.T) {
	for _, tt := range []struct {
		method, url string
		want        bool
	}{
		{"GET", "/api/v1/pods?watch", true},
		{"GET", "/k8s-proxy/apis/apps/v1/namespaces/proxy/deployments?watch=true", true},
		{"GET", "/api/v1/namespaces/services/proxy?watch=1", true},
		{"GET", "/api/v1/pods", false},
		{"POST", "/api/v1/pods?watch=1", false},
		{"GET", "/api/v1/namespaces/a/services/video:80/proxy/file?watch=1", false},
		{"GET", "/k8s-proxy/api/v1/namespaces/a/pods/video/proxy?watch=1", false},
		{"GET", "/api/v1/nodes/n/proxy/logs/?watch=1", false},
	} {
		if got := Watches(httptest.NewRequest(tt.method, tt.url, nil)); got != tt.want {
			t.Errorf("%s %s: %v", tt.method, tt.url, got)
		}
	}
}
