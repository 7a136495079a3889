package k8sproxy

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

const compact = `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"GitLab Agent Server: gone","reason":"Gone","code":410}` + "\n"

const indented = `{
  "kind": "Status",
  "apiVersion": "v1",
  "metadata": {},
  "status": "Failure",
  "message": "GitLab Agent Server: gone",
  "reason": "Gone",
  "code": 410
}`

const yamlForm = `apiVersion: v1
code: 410
kind: Status
message: 'GitLab Agent Server: gone'
metadata: {}
reason: Gone
status: Failure
`

const notAcceptable = "GitLab Agent Server: Failed to negotiate output media type: only the following media types are accepted: " +
	"application/json, application/yaml, application/vnd.kubernetes.protobuf\n"

func TestStatus_Form(t *testing.T) {
	const table = "application/json;as=Table;v=v1;g=meta.k8s.io"
	tests := []struct {
		name, accept, agent, query string
		code                       int
		mediaType, body            string
	}{
		{"no Accept", "", "", "", 410, typeJSON, compact},
		{"anything", "*/*", "", "", 410, typeJSON, compact},
		{"parameters", "application/json;stream=watch", "", "", 410, typeJSON, compact},
		{"kubectl", table + "," + table + ",application/json", "kubectl/v1.36", "", 410, typeJSON, compact},
		{"protobuf table first", "application/vnd.kubernetes.protobuf;as=Table,application/yaml", "", "", 410, typeYAML, yamlForm},
		{"yaml", "application/yaml, application/json", "", "", 410, typeYAML, yamlForm},
		{"quality", "application/yaml;q=0.5, application/json", "", "", 410, typeJSON, compact},
		{"only tables", table, "", "", 406, "text/plain; charset=utf-8", notAcceptable},
		{"html", "text/html", "", "", 406, "text/plain; charset=utf-8", notAcceptable},
		{"not wanted", "application/json;q=0", "", "", 406, "text/plain; charset=utf-8", notAcceptable},
		{"many", strings.Repeat("a/b,", maxAccepted-1) + "application/yaml", "", "", 410, typeYAML, yamlForm},
		{"too many", strings.Repeat("a/b,", maxAccepted) + "application/json", "", "", 406, "text/plain; charset=utf-8", notAcceptable},
		{"malformed", ";;;", "", "", 406, "text/plain; charset=utf-8", notAcceptable},
		{"curl", "*/*", "curl/8.0", "", 410, typeJSON, indented},
		{"wget", "", "Wget/1.2", "", 410, typeJSON, indented},
		{"browser", "", "Mozilla/5.0 (X11)", "", 410, typeJSON, indented},
		{"asked for", "", "kubectl", "pretty=1", 410, typeJSON, indented},
		{"asked for not", "", "curl/8.0", "pretty=false", 410, typeJSON, compact},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/?"+tt.query, nil)
			if tt.accept != "" {
				r.Header.Set("Accept", tt.accept)
			}
			r.Header.Set("User-Agent", tt.agent)
			w := httptest.NewRecorder()
			code, n := writeRefusal(w, r, &refusal{code: 410, msg: "gone"}, "")
			if diff := cmp.Diff(tt.body, w.Body.String()); diff != "" {
				t.Error(diff)
			}
			if code != tt.code || w.Code != tt.code || n != int64(len(tt.body)) || w.Header().Get("Content-Type") != tt.mediaType {
				t.Errorf("%d, %d bytes, %v", code, n, w.Header())
			}
			if sniff := w.Header().Get("X-Content-Type-Options"); (sniff == "nosniff") != (tt.code == 406) {
				t.Errorf("X-Content-Type-Options %q", sniff)
			}
		})
	}
}

func TestStatus_Protobuf(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Accept", "application/vnd.kubernetes.protobuf,application/json")
	w := httptest.NewRecorder()
	writeRefusal(w, r, &refusal{code: 502, msg: "no agent"}, "")
	raw, ok := bytes.CutPrefix(w.Body.Bytes(), []byte("k8s\x00"))
	if !ok {
		t.Fatalf("%x", w.Body.Bytes())
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	var s metav1.Status
	if err := s.Unmarshal(envelope.Raw); err != nil {
		t.Fatal(err)
	}
	if envelope.Kind != "Status" || envelope.APIVersion != "v1" || s.Code != 502 || s.Reason != "" || s.Message != "GitLab Agent Server: no agent" {
		t.Errorf("%v %v", envelope.TypeMeta, s)
	}
}

func TestStatus_Extras(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w := httptest.NewRecorder()
	id := strings.Repeat("ab", 16)
	writeRefusal(w, r, &refusal{code: 401, msg: "Unauthorized: x"}, id)
	if !strings.Contains(w.Body.String(), `"GitLab Agent Server: Unauthorized: x. Trace ID: `+id+`"`) || w.Header().Get("Gitlab-Unauthorized") != "true" {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	writeRefusal(w, r, &refusal{code: 429, msg: "\xff", retryAfter: 1500 * time.Millisecond}, "")
	if w.Header().Get("Retry-After") != "2" || !strings.Contains(w.Body.String(), "TooManyRequests") {
		t.Errorf("%v %s", w.Header(), w.Body)
	}
}

func FuzzNegotiate(f *testing.F) {
	f.Add("application/json;as=Table,*/*;q=0.1")
	f.Add("application/yaml;q=NaN")
	f.Fuzz(func(t *testing.T, accept string) {
		switch got := negotiate([]string{accept}); got {
		case "", typeJSON, typeYAML, typeProtobuf:
		default:
			t.Fatalf("%q", got)
		}
	})
}

func TestTrace(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	own := traceOf(http.Header{"Traceparent": {"00-" + id + "-" + span + "-01"}})
	if own.id != id || own.span == span || own.meta()["traceparent"][0] != "00-"+id+"-"+own.span+"-01" {
		t.Errorf("%+v", own)
	}
	for _, bad := range []string{
		"", "00-" + id + "-" + span, "01-" + id + "-" + span + "-01", "00-" + strings.Repeat("0", 32) + "-" + span + "-01",
		"00-" + strings.ToUpper(id) + "-" + span + "-01", "00-" + id + "-" + strings.Repeat("0", 16) + "-01", "00-" + id + "-" + span + "-zz",
	} {
		if got := traceOf(http.Header{"Traceparent": {bad}}); got.id == id || len(got.id) != 32 {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
