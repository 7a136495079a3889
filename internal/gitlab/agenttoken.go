package gitlab

import (
	"context"
	"net/http"
)

// tokenForm is how GitLab wants an agent's token.
type tokenForm = int32

const (
	// formUnknown: no token has been accepted yet.
	formUnknown tokenForm = iota
	// formHeader: in a header of its own.
	formHeader
	// formBearer: in Authorization, as GitLab before 17.2 wants it.
	formBearer
)

// The second name is the one that GitLab 17.2 and later read first, the first the one that is meant to stay.
const (
	headerAgent  = "Gitlab-Agent-Api-Request"
	headerAgentk = "Gitlab-Agentk-Api-Request"
)

func setAgentToken(h http.Header, token string, bearer bool) {
	h.Set(headerAgent, token)
	h.Set(headerAgentk, token)
	if bearer {
		h.Set("Authorization", "Bearer "+token)
	}
}

// authenticated asks once, in the form in which GitLab wants the agent's token.
//
// No GitLab says which form it reads, and Authorization is not always sent along because newer ones may take it for a user's
// token and refuse it. So a refusal is asked again in the other form until one form has worked. Once a header of its own has
// worked it always will, so from then on a bad token costs one request only; Authorization is given up when GitLab has been
// upgraded and accepts the other form.
func (c *Client) authenticated(ctx context.Context, q *call) (*http.Response, error) {
	if q.agentToken == "" {
		return c.attempt(ctx, q, false)
	}
	known := c.form.Load()
	first := formHeader
	if known == formBearer {
		first = formBearer
	}
	resp, err := c.attempt(ctx, q, first == formBearer)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusUnauthorized || known == formHeader {
		c.learn(first, resp.StatusCode)
		return resp, nil
	}
	discard(resp)
	second := formHeader + formBearer - first
	resp, err = c.attempt(ctx, q, second == formBearer)
	if err != nil {
		return nil, err
	}
	c.learn(second, resp.StatusCode)
	return resp, nil
}

// Old says that this GitLab has been seen to be older than 17.2.
func (c *Client) Old() bool { return c.form.Load() == formBearer }

// learn remembers a form that has worked.
func (c *Client) learn(form tokenForm, status int) {
	if status < 200 || status > 299 || c.form.Load() == form {
		return
	}
	if c.form.Swap(form) != form && form == formBearer {
		c.cfg.Log.Info("This GitLab reads agent tokens from Authorization: it is older than 17.2")
	}
}
