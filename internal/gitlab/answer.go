package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/internal/rules"
)

const (
	mediaType = "application/json"
	// maxAnswer bounds what is read of an answer. The largest real ones have some hundred kilobytes.
	maxAnswer = 8 << 20
	// maxReason bounds what is taken over of a reason, in bytes.
	maxReason = 512
)

// ask sends q and reads the answer into msg.
func (c *Client) ask(ctx context.Context, q *call, msg proto.Message) error {
	if q.header == nil {
		q.header = http.Header{}
	}
	q.header.Set("Accept", mediaType)
	resp, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer discard(resp)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusCreated {
		return c.statusError(resp, q)
	}
	if got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err != nil || got != mediaType {
		return &answerError{fmt.Sprintf("the answer for path %s is not %s", q.path, mediaType)}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the answer: %w", err)
	case len(body) > maxAnswer:
		return &answerError{fmt.Sprintf("the answer for path %s is bigger than %d bytes", q.path, maxAnswer)}
	}
	return decode(body, q.path, msg)
}

// tell sends q and wants no more than a confirmation.
func (c *Client) tell(ctx context.Context, q *call) error {
	if q.header == nil {
		q.header = http.Header{}
	}
	q.header.Set("Accept", mediaType)
	resp, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer discard(resp)
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return c.statusError(resp, q)
	}
	return nil
}

// place is the only part of a decoder's error that is shown: the rest quotes the answer.
var place = regexp.MustCompile(`\(line \d+:\d+\)`)

// decode reads JSON into msg and holds it to its constraints. Keys that are not known are skipped.
func decode(body []byte, path string, msg proto.Message) error {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, msg); err != nil {
		where := place.FindString(err.Error())
		return &answerError{strings.TrimSpace("the answer for path " + path + " is malformed " + where)}
	}
	if err := rules.Validate(msg); err != nil {
		return &answerError{"ValidateAll: " + err.Error()}
	}
	return nil
}

// statusError says what an answer's status means for q.
func (c *Client) statusError(resp *http.Response, q *call) error {
	e := &StatusError{Code: resp.StatusCode, Path: q.path, RetryAfter: retryAfter(resp)}
	if resp.StatusCode != http.StatusUnauthorized && q.endpoint != endpointUser {
		return e
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, drained))
	if err != nil {
		return e
	}
	if resp.StatusCode == http.StatusUnauthorized && !q.open && bytes.Contains(body, []byte(disownedMark)) {
		return c.disowned(q)
	}
	if q.endpoint == endpointUser {
		e.Reason = reason(body)
	}
	return e
}

// reason finds what GitLab says about a refusal.
func reason(body []byte) string {
	var answer struct {
		Message any `json:"message"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return ""
	}
	text, _ := answer.Message.(string)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "")
	}
	return text
}
