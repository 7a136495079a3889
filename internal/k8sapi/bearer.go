package k8sapi

import (
	"net/http"
	"sync/atomic"

	"k8s.io/client-go/transport"
)

// bearer puts a token on requests, as client-go does, but into the header that the request has: client-go copies the whole request
// for that.
type bearer struct {
	static string
	// fresh reads it from its file, rarely; nil: there is only static.
	fresh func() (string, error)
	// last is the header of the last request.
	last atomic.Pointer[bearerHeader]
}

// bearerHeader is the header that says token. It is not changed.
type bearerHeader struct {
	token string
	value []string
}

// takeBearer moves the token of a configuration, if there is one, to a bearer.
func takeBearer(tc *transport.Config) (*bearer, error) {
	if !tc.HasTokenAuth() || tc.HasBasicAuth() { // client-go refuses both
		return nil, nil
	}
	b := &bearer{static: tc.BearerToken}
	if tc.BearerTokenFile != "" {
		file := transport.NewCachedFileTokenSource(tc.BearerTokenFile)
		b.fresh = func() (string, error) {
			token, err := file.Token()
			if err != nil {
				return "", err
			}
			return token.AccessToken, nil
		}
	}
	if b.static == "" {
		var err error
		if b.static, err = b.fresh(); err != nil {
			return nil, err
		}
	}
	tc.BearerToken, tc.BearerTokenFile = "", ""
	return b, nil
}

// authorize adds the token to a header that has no credentials. A file that cannot be read any more leaves the first token in use.
func (b *bearer) authorize(h http.Header) {
	if b == nil || h.Get("Authorization") != "" {
		return
	}
	token := b.static
	if b.fresh != nil {
		if now, err := b.fresh(); err == nil {
			token = now
		}
	}
	last := b.last.Load()
	if last == nil || last.token != token {
		last = &bearerHeader{token: token, value: []string{"Bearer " + token}}
		b.last.Store(last)
	}
	h["Authorization"] = last.value
}
