package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// maxKnown bounds what is kept of live objects for one run, in bytes.
const maxKnown = 32 << 20

// Known answers, in one run, for objects that the run would not change: the apply library reads every object and applies it, whether
// that does anything or not. An object belongs here if
//
//   - it was read from the API server at the beginning of this very run,
//   - the field manager owns the fields it owned after its newest apply, with the values they had then, among them the mark of the
//     inventory, so that every inventory policy lets the run go on, and
//   - the repository has the same object as then.
//
// The library's question for it is answered with what was read, once. Its apply is answered with the same, once, if it is, byte for byte
// and with the same parameters, the apply that led there: the API server would find nothing to change and answer with the object as it
// is. Every other request is sent. An object that somebody changes in between is as if it had been changed just after: the next look
// for drift finds it.
type Known struct {
	mu      sync.Mutex // guards all below
	objects map[string]*knownObject
	size    int
}

type knownObject struct {
	live    []byte
	request [sha256.Size]byte // the apply that led there
	read    bool
}

// Add tells of a live object, and of the apply that led there as Client.Applied returned it. The object is not kept.
func (k *Known) Add(path string, live *unstructured.Unstructured, request [sha256.Size]byte) {
	if path == "" || request == ([sha256.Size]byte{}) {
		return
	}
	data, err := json.Marshal(live.Object)
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.size+len(data) > maxKnown {
		return
	}
	k.size += len(data)
	if k.objects == nil {
		k.objects = map[string]*knownObject{}
	}
	k.objects[path] = &knownObject{live: data, request: request}
}

// answer returns the object if the request need not be sent; nil: it has to be.
func (k *Known) answer(method, path string, request [sha256.Size]byte) []byte {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.objects[path]
	switch {
	case o == nil:
		return nil
	case method == http.MethodGet && !o.read:
		o.read = true
		return o.live
	case method == http.MethodGet:
		return nil
	}
	// This is the object's apply, or something else changes it: nothing is known of it afterwards.
	delete(k.objects, path)
	k.size -= len(o.live)
	if method == http.MethodPatch && request == o.request {
		return o.live
	}
	return nil
}

// asResponse is the API server's answer with an object.
func asResponse(req *http.Request, object []byte) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:        http.Header{"Content-Type": {"application/json"}},
		Body:          io.NopCloser(bytes.NewReader(object)),
		ContentLength: int64(len(object)),
		Request:       req,
	}
}

// condense is the sum of a server-side apply: its body and parameters; zero: the request is none, or cannot be read twice.
func condense(req *http.Request) (sum [sha256.Size]byte) {
	if req.Method != http.MethodPatch || req.Header.Get("Content-Type") != string(types.ApplyPatchType) || req.GetBody == nil {
		return sum
	}
	body, err := req.GetBody()
	if err != nil {
		return sum
	}
	h := sha256.New()
	_, _ = io.WriteString(h, req.URL.RawQuery+"\n") // a hash does not fail
	_, err = io.Copy(h, body)
	if closed := body.Close(); err != nil || closed != nil {
		return sum
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Recall makes the client answer for what is known. It must be called before the first request.
func (c *Client) Recall(k *Known) { c.gate.known = k }

// Path is where an object is found on the API server; empty: its kind is not known.
func (c *Client) Path(gvk schema.GroupVersionKind, namespace, name string) string {
	mapping, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return ""
	}
	parts := []string{strings.TrimSuffix(c.base, "/"), "apis", gvk.Group, gvk.Version}
	if gvk.Group == "" {
		parts = []string{strings.TrimSuffix(c.base, "/"), "api", gvk.Version}
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		parts = append(parts, "namespaces", namespace)
	}
	return strings.Join(append(parts, mapping.Resource.Resource, name), "/")
}

// Stored says that an object was sent to the API server in this run, which has not refused it, or that nobody knows.
func (c *Client) Stored(gvk schema.GroupVersionKind, namespace, name string) bool {
	path := c.Path(gvk, namespace, name)
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return path == "" || c.gate.stored[path]
}

// Applied is the newest apply of an object in this run that succeeded; zero: there was none, or something else changed the object since.
func (c *Client) Applied(u *unstructured.Unstructured) [sha256.Size]byte {
	path := c.Path(u.GroupVersionKind(), u.GetNamespace(), u.GetName())
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	return c.gate.applied[path]
}
