package httpgrpc

import (
	"net/http"
	"net/url"
	"strings"
)

// Watches says whether a request asks for events until somebody ends it. What is asked of a pod, service or node behind the API server
// never counts: its query is its own, and an answer of it that was cut must not look complete.
func Watches(r *http.Request) bool {
	return r.Method == http.MethodGet && Asks(r.URL.RawQuery, "watch") && !behindProxy(r.URL.Path)
}

// Asks says whether a query turns a switch on, as API servers read it: "?watch" and "?watch=yes" do, "?watch=0" and "?watch=False" do not.
func Asks(rawQuery, key string) bool {
	if !strings.Contains(rawQuery, key) && !strings.Contains(rawQuery, "%") { // which may hide it; most requests ask for nothing
		return false
	}
	query, _ := url.ParseQuery(rawQuery) // what cannot be read asks for nothing
	values := query[key]
	return len(values) > 0 && values[0] != "0" && !strings.EqualFold(values[0], "false")
}

// behindProxy says whether a path is that of the proxy subresource of a pod, service or node.
func behindProxy(path string) bool {
	segments := strings.Split(path, "/")
	for i := 2; i < len(segments); i++ {
		if segments[i] != "proxy" {
			continue
		}
		switch segments[i-2] {
		case "pods", "services", "nodes":
			return true
		}
	}
	return false
}
