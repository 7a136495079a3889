package k8sproxy

import (
	"net/http"
	"slices"
	"strings"
)

const (
	headerOrigin = "Origin"
	headerVary   = "Vary"
)

// corsHeaders are set by kas alone; a cluster has no say in who may read answers of this host.
var corsHeaders = [...]string{
	"Access-Control-Allow-Origin", "Access-Control-Allow-Headers", "Access-Control-Allow-Credentials",
	"Access-Control-Allow-Methods", "Access-Control-Max-Age",
}

// allowedMethods is what the preflight answer lists.
var allowedMethods = strings.Join([]string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodConnect, http.MethodOptions,
	http.MethodTrace, http.MethodPatch,
}, ", ")

// origin checks where a browser comes from and sets the CORS headers of every answer it gets. Clients that send no Origin are
// no browsers. false: not allowed.
func (p *Proxy) origin(h, request http.Header) bool {
	values, ok := request[headerOrigin]
	if !ok {
		return true
	}
	if len(values) != 1 || !slices.Contains(p.cfg.AllowedOrigins, values[0]) {
		return false
	}
	h.Set("Access-Control-Allow-Origin", values[0])
	h.Set("Access-Control-Allow-Credentials", "true")
	h.Set(headerVary, headerOrigin)
	return true
}

// preflight answers OPTIONS, which never gets further and needs no credential.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	if asked := r.Header["Access-Control-Request-Headers"]; len(asked) > 0 {
		h["Access-Control-Allow-Headers"] = slices.Clone(asked)
	}
	h.Set("Access-Control-Allow-Methods", allowedMethods)
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusOK)
}
