package k8sapi

import (
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
	"k8s.io/client-go/rest"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

// Headers that the API server reads.
const (
	impersonateUser        = "Impersonate-User"
	impersonateUID         = "Impersonate-Uid"
	impersonateGroup       = "Impersonate-Group"
	impersonateExtraPrefix = "Impersonate-Extra-"
)

// source is where a request's identity comes from.
type source uint8

const (
	sourceNone source = iota
	sourceSelf
	sourceKas
	sourceClient
)

// impersonate makes h carry the identity of the only source that has one, and says which.
func (c *Client) impersonate(h http.Header, kas *saidExtra) (source, error) {
	var found []source
	if c.impersonatesItself() {
		found = append(found, sourceSelf)
	}
	if kas.identity != nil {
		found = append(found, sourceKas)
	}
	for name := range h {
		if strings.HasPrefix(name, impersonatePrefix) {
			found = append(found, sourceClient)
			break
		}
	}
	if len(found) > 1 {
		return sourceNone, refuse("nested impersonation is not supported: identity comes from %s", describe(found))
	}
	if len(found) == 0 {
		return sourceNone, nil
	}
	switch found[0] {
	case sourceSelf:
		return sourceSelf, writeIdentity(h, selfIdentity(c.self))
	case sourceKas:
		for name, values := range kas.identity {
			h[name] = slices.Clip(values)
		}
		return sourceKas, kas.invalid
	default:
		return sourceClient, nil
	}
}

func (c *Client) impersonatesItself() bool {
	return c.self.UserName != "" || c.self.UID != "" || len(c.self.Groups) > 0 || len(c.self.Extra) > 0
}

func describe(sources []source) string {
	names := make([]string, 0, len(sources))
	for _, s := range sources {
		switch s {
		case sourceSelf:
			names = append(names, "the agent's own configuration")
		case sourceKas:
			names = append(names, "kas")
		default:
			names = append(names, "Impersonate-* headers of the client")
		}
	}
	return strings.Join(names, " and ")
}

// selfIdentity gives the agent's own impersonation the form of one from kas.
func selfIdentity(r rest.ImpersonationConfig) *kubernetesapi.ImpersonationConfig {
	id := &kubernetesapi.ImpersonationConfig{Username: r.UserName, Groups: r.Groups, Uid: r.UID}
	for key, values := range r.Extra {
		id.Extra = append(id.Extra, &kubernetesapi.ExtraKeyVal{Key: key, Val: values})
	}
	slices.SortFunc(id.Extra, func(a, b *kubernetesapi.ExtraKeyVal) int { return strings.Compare(a.Key, b.Key) })
	return id
}

// writeIdentity adds the headers of an identity, or fails: never less than the whole identity is sent.
func writeIdentity(h http.Header, id *kubernetesapi.ImpersonationConfig) error {
	if id.GetUsername() == "" {
		return refuse("identity has no user name")
	}
	// name is in its canonical form.
	add := func(name string, values ...string) error {
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) || strings.Trim(value, " \t") != value {
				return refuse("identity has a value for %s that cannot be sent in a header", name)
			}
		}
		if len(values) > 0 {
			h[name] = append(h[name], values...)
		}
		return nil
	}
	if err := add(impersonateUser, id.GetUsername()); err != nil {
		return err
	}
	if uid := id.GetUid(); uid != "" {
		if err := add(impersonateUID, uid); err != nil {
			return err
		}
	}
	if err := add(impersonateGroup, id.GetGroups()...); err != nil {
		return err
	}
	for _, extra := range id.GetExtra() {
		if extra.GetKey() == "" {
			return refuse("identity has an extra without a key")
		}
		if err := add(http.CanonicalHeaderKey(impersonateExtraPrefix+escapeKey(extra.GetKey())), extra.GetVal()...); err != nil {
			return err
		}
	}
	return nil
}

// escapeKey percent-encodes what may not stand in a header name, and the percent sign itself. The API server decodes it.
func escapeKey(key string) string {
	const digits = "0123456789ABCDEF"
	escaped := 0
	for i := range len(key) {
		if !standsInName(key[i]) {
			escaped++
		}
	}
	if escaped == 0 {
		return key
	}
	b := make([]byte, 0, len(key)+2*escaped)
	for i := range len(key) {
		if c := key[i]; standsInName(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(b)
}

// standsInName says whether a byte of a key is written as it is.
func standsInName(c byte) bool { return c != '%' && c < 0x80 && httpguts.IsTokenRune(rune(c)) }
