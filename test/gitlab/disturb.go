package gitlab

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// bodyLimit bounds request bodies that are read whole. Pushes are not.
const bodyLimit = 64 << 20

// observed wraps a handler: its requests are recorded and meet the endpoint's fault.
func (g *GitLab) observed(e Endpoint, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.traffic.handlers.Add(1)
		defer g.traffic.handlers.Done()
		request := &Request{
			Endpoint: e, At: g.cfg.Now(), Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.Query(), Header: r.Header.Clone(),
		}
		if e != GitHTTP {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
			if err != nil {
				fail(w, http.StatusRequestEntityTooLarge, "")
				return
			}
			request.Body, r.Body = body, io.NopCloser(bytes.NewReader(body))
		}
		fault := g.traffic.record(request)
		g.disturb(w, r, request, fault, next)
	}
}

func (g *GitLab) disturb(w http.ResponseWriter, r *http.Request, request *Request, fault Fault, next http.HandlerFunc) {
	if !g.pause(r, fault) || fault.Cut {
		panic(http.ErrAbortHandler) // closes the connection, says nothing
	}
	if fault.RetryAfter != "" {
		w.Header().Set("Retry-After", fault.RetryAfter)
	}
	switch {
	case fault.Body != nil:
		contentType := fault.ContentType
		if contentType == "" {
			contentType = "application/json"
		}
		w.Header().Set("Content-Type", contentType)
		status := max(fault.Status, http.StatusOK)
		g.traffic.answered(request, status)
		w.WriteHeader(status)
		_, _ = w.Write(fault.Body)
	case fault.Status >= http.StatusMultipleChoices:
		g.traffic.answered(request, fault.Status)
		fail(w, fault.Status, fault.Message)
	case fault.Status != 0 || fault.Pad != 0 || fault.ContentType != "":
		held := &heldAnswer{header: w.Header()}
		next(held, r)
		held.release(w, fault)
		g.traffic.answered(request, held.status)
	default:
		watched := &watchedAnswer{ResponseWriter: w}
		next(watched, r)
		g.traffic.answered(request, max(watched.status, http.StatusOK))
	}
}

// pause waits as long as the fault says. False: the client is gone, or the GitLab stops.
func (g *GitLab) pause(r *http.Request, fault Fault) bool {
	if fault.Delay <= 0 && !fault.Hang {
		return true
	}
	var after <-chan time.Time
	if !fault.Hang {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-after:
		return true
	case <-r.Context().Done():
		return false
	case <-g.traffic.stopped:
		return false
	}
}

// watchedAnswer notes the status of an answer.
type watchedAnswer struct {
	http.ResponseWriter
	status int
}

func (w *watchedAnswer) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watchedAnswer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// heldAnswer keeps an answer back so that it can be changed.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header { return h.header }

func (h *heldAnswer) WriteHeader(status int) { h.status = status }

func (h *heldAnswer) Write(p []byte) (int, error) { return h.body.Write(p) }

func (h *heldAnswer) release(w http.ResponseWriter, fault Fault) {
	h.status = max(h.status, http.StatusOK)
	if fault.Status != 0 && h.status < http.StatusMultipleChoices {
		h.status = fault.Status
	}
	if fault.ContentType != "" {
		h.header.Set("Content-Type", fault.ContentType)
	}
	body := h.body.Bytes()
	if rest, object := bytes.CutPrefix(body, []byte("{")); object && fault.Pad > 0 {
		padding := `{"padding":"` + strings.Repeat("x", fault.Pad) + `"`
		if !bytes.HasPrefix(rest, []byte("}")) {
			padding += ","
		}
		body = append([]byte(padding), rest...)
	}
	h.header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(h.status)
	_, _ = w.Write(body)
}

var errNoBody = errors.New("the body is not a JSON object")
