package gitlab

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// cookiePurpose binds the cookie to its use.
const cookiePurpose = "kas.user_public_session_id"

// CookieName is that of the cookie by which a browser uses agents.
const CookieName = "_gitlab_kas"

// PAT is a personal access token.
type PAT struct {
	ID       int64
	Username string
	Name     string
	Value    string
	Scopes   []string
	// ExpiresAt is the end of its life; zero: none.
	ExpiresAt time.Time
	Revoked   bool
	LastUsed  time.Time
}

// Session is a browser that is signed in.
type Session struct {
	// Cookie is the value of CookieName, as the browser sends it.
	Cookie string

	gitlab *GitLab
	public string
	secret []byte
}

type session struct {
	user   *User
	secret []byte // of authenticity tokens
}

var errUndecryptable = errors.New("cookie cannot be decrypted")

// AddPAT makes a personal access token. Value is by default a random one.
func (g *GitLab) AddPAT(p PAT) (PAT, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.db.user(p.Username) == nil {
		return PAT{}, fmt.Errorf("user %q: %w", p.Username, ErrNotFound)
	}
	return *g.db.addPAT(p), nil
}

func (d *database) addPAT(p PAT) *PAT {
	p.ID = d.id(p.ID)
	if p.Value == "" {
		p.Value = "glpat-" + rand.Text()[:20]
	}
	p.Scopes = slices.Clone(p.Scopes)
	d.pats = append(d.pats, &p)
	return &p
}

// RevokePAT revokes a personal access token.
func (g *GitLab) RevokePAT(id int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.db.pats {
		if p.ID == id {
			p.Revoked = true
			return nil
		}
	}
	return fmt.Errorf("personal access token %d: %w", id, ErrNotFound)
}

// PATs are the personal access tokens of a user.
func (g *GitLab) PATs(username string) []PAT {
	g.mu.Lock()
	defer g.mu.Unlock()
	var found []PAT
	for _, p := range g.db.pats {
		if strings.EqualFold(p.Username, username) {
			found = append(found, *p)
		}
	}
	return found
}

func (d *database) pat(value string) *PAT {
	for _, p := range d.pats {
		if p.Value == value {
			return p
		}
	}
	return nil
}

func (p *PAT) usable(now time.Time) bool {
	return !p.Revoked && (p.ExpiresAt.IsZero() || now.Before(p.ExpiresAt))
}

// SignIn opens a session.
func (g *GitLab) SignIn(username string) (*Session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	user := g.db.user(username)
	if user == nil {
		return nil, fmt.Errorf("user %q: %w", username, ErrNotFound)
	}
	s := &Session{gitlab: g, public: rand.Text(), secret: []byte(rand.Text())}
	g.db.sessions[s.public] = &session{user: user, secret: s.secret}
	var err error
	s.Cookie, err = g.sealCookie(s.public)
	return s, err
}

// SignOut ends the session.
func (s *Session) SignOut() {
	s.gitlab.mu.Lock()
	defer s.gitlab.mu.Unlock()
	delete(s.gitlab.db.sessions, s.public)
}

// CSRFToken makes an authenticity token as a page of the session has it: another one each time.
func (s *Session) CSRFToken() string {
	mask := make([]byte, len(s.secret))
	_, _ = rand.Read(mask)
	masked := make([]byte, len(mask))
	for i := range mask {
		masked[i] = mask[i] ^ s.secret[i]
	}
	return base64.StdEncoding.EncodeToString(append(mask, masked...))
}

func (s *session) accepts(token string) bool {
	raw, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(raw) != 2*len(s.secret) {
		return false
	}
	mask, masked := raw[:len(s.secret)], raw[len(s.secret):]
	for i := range masked {
		masked[i] ^= mask[i]
	}
	return hmac.Equal(masked, s.secret)
}

// sealCookie encrypts the public id of a session; the value is escaped as cookies are.
func (g *GitLab) sealCookie(public string) (string, error) {
	aead, err := g.cookieCipher()
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce)
	sealed := aead.Seal(nil, nonce, []byte(public), []byte(cookiePurpose))
	encode := base64.StdEncoding.EncodeToString
	return url.QueryEscape("kas:" + encode(sealed) + "--" + encode(nonce)), nil
}

// openCookie is the public session id in a cookie's unescaped value.
func (g *GitLab) openCookie(value string) (string, error) {
	value, prefixed := strings.CutPrefix(value, "kas:")
	sealed, nonce, whole := strings.Cut(value, "--")
	if !prefixed || !whole {
		return "", errUndecryptable
	}
	content, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		return "", errUndecryptable
	}
	rawNonce, err := base64.StdEncoding.DecodeString(nonce)
	if err != nil {
		return "", errUndecryptable
	}
	aead, err := g.cookieCipher()
	if err != nil || len(rawNonce) != aead.NonceSize() {
		return "", errUndecryptable
	}
	public, err := aead.Open(nil, rawNonce, content, []byte(cookiePurpose))
	if err != nil {
		return "", errUndecryptable
	}
	return string(public), nil
}

// cookieCipher needs no key of its own: nobody but this double reads its cookies.
func (g *GitLab) cookieCipher() (cipher.AEAD, error) {
	block, err := aes.NewCipher(g.Secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
