package wsconn

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

const (
	// maxSnippet is how much of a body an error shows: enough to recognise whose page it is.
	maxSnippet = 200
	// minSecret is the shortest header value that is looked for in a body; shorter ones are no secrets.
	minSecret = 4
)

// explainAnswer turns an HTTP answer that is no upgrade into an error that says what to do about it.
func explainAnswer(target *url.URL, resp *http.Response, sent http.Header) error {
	text := fmt.Sprintf("WebSocket handshake with %s: expected handshake response status code 101 but got %d%s",
		target.Host, resp.StatusCode, advice(target, resp))
	if snippet := snippetOf(resp.Body, sent); snippet != "" {
		text += fmt.Sprintf("; the answer begins %q", snippet)
	}
	return &AnswerError{Status: resp.StatusCode, text: text}
}

// AnswerError means that the other end of the dial speaks HTTP but did not open the WebSocket.
type AnswerError struct {
	// Status is the HTTP status.
	Status int
	text   string
}

func (e *AnswerError) Error() string { return e.text }

func advice(target *url.URL, resp *http.Response) string {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		text := ": redirects are not followed, use the final URL (wss:// and with a trailing slash, where the server wants them)"
		if to, err := url.Parse(resp.Header.Get("Location")); err == nil && resp.Header.Get("Location") != "" {
			to = target.ResolveReference(to)
			text += ", it points to " + (&url.URL{Scheme: to.Scheme, Host: to.Host, Path: to.Path}).String()
		}
		return text
	}
	return Advice(resp.StatusCode)
}

// Advice is what an HTTP status in place of an answer of kas usually means, to be put behind it; empty if that is not known.
func Advice(status int) string {
	switch status {
	case http.StatusNotFound, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return ": the reverse proxy in front of kas does not route this path to it, or kas is not running"
	case http.StatusUpgradeRequired:
		return ": something on the way removes the headers Upgrade and Connection, WebSocket has to be allowed there"
	case http.StatusProxyAuthRequired:
		return ": a proxy wants a user name and password, " + proxyLogin
	case http.StatusUnauthorized, http.StatusForbidden:
		return ": something in front of kas refuses the request, kas itself asks for nothing here"
	case http.StatusSwitchingProtocols:
		return ", which is right, but its headers are not those of a WebSocket"
	case http.StatusOK:
		return ": this is a web page, not the agent endpoint; check host and path"
	}
	return ""
}

// snippetOf is the beginning of a body on one line, without the values of headers we sent, which some servers echo.
func snippetOf(body io.Reader, sent http.Header) string {
	if body == nil {
		return ""
	}
	head, err := io.ReadAll(io.LimitReader(body, 4*maxSnippet))
	if err != nil {
		return ""
	}
	text := string(head)
	longest := 0
	for _, values := range sent {
		for _, v := range values {
			for _, part := range append(strings.Fields(v), v) {
				if len(part) >= minSecret {
					longest = max(longest, len(part))
					text = strings.ReplaceAll(text, part, "***")
				}
			}
		}
	}
	if len(head) == 4*maxSnippet { // the cut may have gone through a value, which then was not found
		text = text[:max(0, len(text)-longest)]
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxSnippet {
		text = strings.ToValidUTF8(text[:maxSnippet], "")
	}
	return text
}
