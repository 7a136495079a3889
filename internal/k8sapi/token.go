package k8sapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

const (
	// tokenLife is asked for; the API server may grant less.
	tokenLife = time.Hour
	// renewAfter is the share of its life after which a token is replaced.
	renewAfter = 0.8
	// minTokenLife: a token that lives shorter than this is of no use.
	minTokenLife = 10 * time.Second
	// tokenTimeout bounds one TokenRequest, and how long a request waits for one.
	tokenTimeout = 10 * time.Second
	// tokenRetryMin and tokenRetryMax bound the pause after a failed TokenRequest, and the first one how often a refused token
	// is replaced.
	tokenRetryMin = 3 * time.Second
	tokenRetryMax = 30 * time.Second
	// maxTokenAnswer bounds what is read of the API server's answer.
	maxTokenAnswer = 1 << 20
)

// tokenSource has the token of the impersonation account. Both methods are safe for concurrent use.
type tokenSource interface {
	// token returns a token that is valid as far as is known, or fails. Its errors carry no secret.
	token(ctx context.Context) (string, error)
	// rejected tells that the API server does not accept a token.
	rejected(token string)
}

// fileTokens is a tokenSource that somebody else keeps fresh.
type fileTokens struct{ file *secretfile.File }

func (f fileTokens) token(context.Context) (string, error) { return f.file.Read() }
func (f fileTokens) rejected(string)                       {}

// accountTokens is a tokenSource that asks the API server, with the agent's own credentials, for tokens of a service account.
type accountTokens struct {
	log       *zap.Logger
	namespace string
	name      string
	url       string
	api       http.RoundTripper
	// kick makes run fetch a token now.
	kick chan struct{}

	// mu guards all below.
	mu sync.Mutex
	// value is "" while there is no token; err says then why, nil that the first attempt is under way.
	value   string
	expires time.Time
	fetched time.Time
	err     error
	// changed is closed and replaced whenever value or err changes.
	changed chan struct{}
}

func newAccountTokens(account string, base *url.URL, api http.RoundTripper, log *zap.Logger) (*accountTokens, error) {
	namespace, name, ok := strings.Cut(account, "/")
	if !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/%") || strings.ContainsRune(namespace, '%') {
		return nil, fmt.Errorf("impersonation service account %q is not of the form <namespace>/<name>", account)
	}
	u := base.JoinPath("api/v1/namespaces", namespace, "serviceaccounts", name, "token")
	return &accountTokens{
		log: log, namespace: namespace, name: name, url: u.String(), api: api,
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}, nil
}

// run keeps the token fresh until ctx ends.
func (a *accountTokens) run(ctx context.Context) {
	retry := tokenRetryMin
	for ctx.Err() == nil {
		pause := retry
		if life, err := a.fetch(ctx); err != nil {
			retry = min(2*retry, tokenRetryMax)
			a.log.Error("No token of the impersonation account", zap.String("service_account", a.namespace+"/"+a.name), zap.Error(err))
		} else {
			retry = tokenRetryMin
			pause = time.Duration(renewAfter * float64(life))
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-a.kick:
		}
		timer.Stop()
	}
	a.store("", 0, errors.New("agent is stopping"))
}

// fetch replaces the token. A failure leaves a token that is still valid in place.
func (a *accountTokens) fetch(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	value, life, err := a.request(ctx)
	if err != nil {
		a.mu.Lock()
		keep := a.value != "" && time.Now().Before(a.expires)
		a.mu.Unlock()
		if !keep {
			a.store("", 0, err)
		}
		return 0, err
	}
	a.store(value, life, nil)
	return life, nil
}

func (a *accountTokens) store(value string, life time.Duration, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.value, a.err, a.fetched, a.expires = value, err, now, now.Add(life)
	close(a.changed)
	a.changed = make(chan struct{})
}

// request makes one TokenRequest.
func (a *accountTokens) request(ctx context.Context) (string, time.Duration, error) {
	seconds := int64(tokenLife / time.Second)
	body, err := json.Marshal(&authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		Spec:     authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	})
	if err != nil {
		return "", 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := a.api.RoundTrip(req)
	if err != nil {
		return "", 0, fmt.Errorf("TokenRequest for %s/%s: %w", a.namespace, a.name, err)
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return "", 0, fmt.Errorf("TokenRequest for %s/%s: %w", a.namespace, a.name, err)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK {
		var st metav1.Status
		_ = json.Unmarshal(answer, &st) // an answer of another form has no message
		return "", 0, fmt.Errorf("TokenRequest for %s/%s: Kubernetes API server says %d %s", a.namespace, a.name, resp.StatusCode, st.Message)
	}
	var token authenticationv1.TokenRequest
	if err := json.Unmarshal(answer, &token); err != nil || token.Status.Token == "" {
		return "", 0, fmt.Errorf("TokenRequest for %s/%s: Kubernetes API server answers without a token", a.namespace, a.name)
	}
	life := lifeOf(&token)
	if life < minTokenLife {
		return "", 0, fmt.Errorf("TokenRequest for %s/%s: the token lives for %s only", a.namespace, a.name, life)
	}
	return token.Status.Token, life, nil
}

// lifeOf says how long a new token lives. Clocks may differ, so the promised length counts unless the time stamp says less.
func lifeOf(t *authenticationv1.TokenRequest) time.Duration {
	life := tokenLife
	if s := t.Spec.ExpirationSeconds; s != nil && *s > 0 {
		life = time.Duration(*s) * time.Second
	}
	if left := time.Until(t.Status.ExpirationTimestamp.Time); left > 0 {
		life = min(life, left)
	}
	return life
}

// token implements tokenSource. It waits only while an attempt may still bring a token.
func (a *accountTokens) token(ctx context.Context) (string, error) {
	timer := time.NewTimer(tokenTimeout)
	defer timer.Stop()
	for {
		a.mu.Lock()
		value, expires, err, changed := a.value, a.expires, a.err, a.changed
		a.mu.Unlock()
		switch {
		case value != "" && time.Now().Before(expires):
			return value, nil
		case value != "":
			return "", fmt.Errorf("token of %s/%s has expired", a.namespace, a.name)
		case err != nil:
			return "", err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		case <-timer.C:
			return "", fmt.Errorf("no answer to the TokenRequest for %s/%s", a.namespace, a.name)
		}
	}
}

// rejected implements tokenSource. The token is replaced unless it is brand new, so that an API server that accepts none is not
// asked again and again.
func (a *accountTokens) rejected(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.value != token || time.Since(a.fetched) < tokenRetryMin {
		return
	}
	a.value, a.err = "", nil
	a.log.Warn("Kubernetes API server does not accept the token of the impersonation account, asking for another",
		zap.String("service_account", a.namespace+"/"+a.name))
	select {
	case a.kick <- struct{}{}:
	default:
	}
}
