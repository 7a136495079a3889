package gitlab

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// HeaderKas carries the token by which kas proves who it is.
	HeaderKas = "Gitlab-Kas-Api-Request"
	kasIssuer = "gitlab-kas"
	// audiences of tokens: for GitLab, and for kas.
	audienceGitLab = "gitlab"
	audienceKas    = "gitlab-kas"
	// tokenLife and tokenSkew are those of tokens that Rails makes.
	tokenLife = 60 * time.Second
	tokenSkew = 5 * time.Second
)

var errNotKas = errors.New("KAS JWT authentication invalid")

// checkKas says whether a request is from kas.
func (g *GitLab) checkKas(r *http.Request) error {
	values := r.Header.Values(HeaderKas)
	if len(values) != 1 {
		return errNotKas
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithIssuer(kasIssuer), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(g.cfg.Now),
	}
	if g.release.atLeast(17, 0) {
		options = append(options, jwt.WithAudience(audienceGitLab))
	}
	_, err := jwt.NewParser(options...).Parse(values[0], func(*jwt.Token) (any, error) { return g.Secret, nil })
	if err != nil {
		return errNotKas
	}
	return nil
}

// kasOnly lets only kas pass.
func (g *GitLab) kasOnly(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := g.checkKas(r); err != nil {
			fail(w, http.StatusUnauthorized, err.Error())
			return
		}
		next(w, r)
	}
}

// agentOnly lets only requests on behalf of an agent pass.
func (g *GitLab) agentOnly(next func(http.ResponseWriter, *http.Request, *agent)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		a := g.db.useToken(g.agentToken(r), g.cfg.Now())
		g.mu.Unlock()
		if a == nil {
			fail(w, http.StatusUnauthorized, "401 Unauthorized")
			return
		}
		next(w, r, a)
	}
}

// agentToken is the token that a request carries in the first of the version's headers that is there. mu is held.
func (g *GitLab) agentToken(r *http.Request) string {
	headers := g.settings.TokenHeaders
	if headers == nil {
		headers = g.release.tokenHeaders()
	}
	for _, header := range headers {
		value := r.Header.Get(header)
		if header == HeaderAuthorization {
			scheme, credential, _ := strings.Cut(value, " ")
			if !strings.EqualFold(scheme, "Bearer") {
				continue
			}
			value = credential
		}
		if value != "" {
			return value
		}
	}
	return ""
}

// kasToken is what Rails proves itself to kas with. change may spoil it.
func (g *GitLab) kasToken(change func(jwt.MapClaims) jwt.SigningMethod) (string, error) {
	now := g.cfg.Now()
	claims := jwt.MapClaims{
		"iss": g.host(), "aud": audienceKas, "iat": now.Unix(), "nbf": now.Add(-tokenSkew).Unix(), "exp": now.Add(tokenLife).Unix(),
	}
	var method jwt.SigningMethod = jwt.SigningMethodHS256
	if change != nil {
		method = change(claims)
	}
	return jwt.NewWithClaims(method, claims).SignedString(g.Secret)
}
