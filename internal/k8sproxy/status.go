package k8sproxy

import (
	"encoding/json"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"gitlab.com/agentk/agentk/internal/fault"
)

const (
	messagePrefix = "GitLab Agent Server: "

	typeJSON     = "application/json"
	typeYAML     = "application/yaml"
	typeProtobuf = "application/vnd.kubernetes.protobuf"

	headerUnauthorized = "Gitlab-Unauthorized"

	// maxAccepted is how many entries of Accept headers are looked at. Clients have up to ten; who need not prove anything to be refused
	// shall not make kas read a megabyte of them.
	maxAccepted = 100

	// statusClientGone is what logs and metrics show for a request whose client left before there was an answer.
	statusClientGone = 499
)

// protobufMagic starts every object that Kubernetes encodes as protobuf.
var protobufMagic = []byte("k8s\x00")

// refusal is an error answer of kas itself.
type refusal struct {
	code int
	// msg is for the client: a summary and, where it may be known, the cause. It never holds a credential that the client
	// has not sent in the very request.
	msg string
	// logged replaces msg in the log.
	logged string
	hop    fault.Hop
	// retryAfter tells the client when to come back; 0: it is not told.
	retryAfter time.Duration
}

func (r *refusal) logText() string {
	if r.logged != "" {
		return r.logged
	}
	return r.msg
}

// reasons are the Kubernetes reasons of HTTP codes; other codes have none.
var reasons = map[int]metav1.StatusReason{
	http.StatusBadRequest:            metav1.StatusReasonBadRequest,
	http.StatusUnauthorized:          metav1.StatusReasonUnauthorized,
	http.StatusForbidden:             metav1.StatusReasonForbidden,
	http.StatusNotFound:              metav1.StatusReasonNotFound,
	http.StatusMethodNotAllowed:      metav1.StatusReasonMethodNotAllowed,
	http.StatusNotAcceptable:         metav1.StatusReasonNotAcceptable,
	http.StatusConflict:              metav1.StatusReasonConflict,
	http.StatusGone:                  metav1.StatusReasonGone,
	http.StatusRequestEntityTooLarge: metav1.StatusReasonRequestEntityTooLarge,
	http.StatusUnsupportedMediaType:  metav1.StatusReasonUnsupportedMediaType,
	http.StatusUnprocessableEntity:   metav1.StatusReasonInvalid,
	http.StatusTooManyRequests:       metav1.StatusReasonTooManyRequests,
	http.StatusInternalServerError:   metav1.StatusReasonInternalError,
	http.StatusServiceUnavailable:    metav1.StatusReasonServiceUnavailable,
	http.StatusGatewayTimeout:        metav1.StatusReasonTimeout,
}

// writeRefusal answers with a Kubernetes Status in the form the client accepts. It returns the code and size of the answer.
// traceID is shown unless it is empty.
func writeRefusal(w http.ResponseWriter, r *http.Request, why *refusal, traceID string) (int, int64) {
	h := w.Header()
	if why.code == http.StatusUnauthorized {
		h.Set(headerUnauthorized, "true")
	}
	if why.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(why.retryAfter.Seconds()))))
	}
	code, mediaType := why.code, negotiate(r.Header["Accept"])
	var body []byte
	if mediaType == "" {
		code, mediaType = http.StatusNotAcceptable, "text/plain; charset=utf-8"
		h.Set("X-Content-Type-Options", "nosniff")
		body = []byte(messagePrefix + "Failed to negotiate output media type: only the following media types are accepted: " +
			strings.Join([]string{typeJSON, typeYAML, typeProtobuf}, ", ") + "\n")
	} else {
		message := messagePrefix + why.msg
		if traceID != "" {
			message += ". Trace ID: " + traceID
		}
		body = encode(&metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status:   metav1.StatusFailure,
			Message:  strings.ToValidUTF8(message, "\uFFFD"),
			Reason:   reasons[code],
			Code:     int32(code),
		}, mediaType, pretty(r))
	}
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	n, _ := w.Write(body) // a client that is gone needs no answer
	return code, int64(n)
}

// encode cannot fail for a Status, which holds strings and a number.
func encode(s *metav1.Status, mediaType string, indent bool) []byte {
	switch mediaType {
	case typeYAML:
		body, _ := yaml.Marshal(s)
		return body
	case typeProtobuf:
		raw, _ := s.Marshal()
		envelope := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: s.APIVersion, Kind: s.Kind}, Raw: raw}
		body, _ := envelope.Marshal()
		return append(slices.Clone(protobufMagic), body...)
	default:
		if indent {
			body, _ := json.MarshalIndent(s, "", "  ")
			return body
		}
		body, _ := json.Marshal(s)
		return append(body, '\n')
	}
}

// pretty says whether a person reads the answer.
func pretty(r *http.Request) bool {
	query, _ := url.ParseQuery(r.URL.RawQuery)
	if values, ok := query["pretty"]; ok {
		yes, err := strconv.ParseBool(values[0])
		return err == nil && yes
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// accepted is one entry of an Accept header.
type accepted struct {
	mediaType string
	quality   float64
}

// negotiate returns the media type of an error answer, or "" if the client accepts none of them. An entry that asks for a
// transformation (as=Table) is not one that a Status can satisfy.
func negotiate(accept []string) string {
	var entries []accepted
	looked := 0
	for _, value := range accept {
		for entry := range strings.SplitSeq(value, ",") {
			if looked++; looked > maxAccepted {
				break
			}
			mediaType, params, err := mime.ParseMediaType(entry)
			if err != nil || params["as"] != "" {
				continue
			}
			quality := 1.0
			if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
				quality = q
			}
			if quality > 0 {
				entries = append(entries, accepted{mediaType: mediaType, quality: quality})
			}
		}
	}
	if len(entries) == 0 {
		if strings.TrimSpace(strings.Join(accept, "")) == "" {
			return typeJSON
		}
		return ""
	}
	slices.SortStableFunc(entries, func(a, b accepted) int {
		switch {
		case a.quality > b.quality:
			return -1
		case a.quality < b.quality:
			return 1
		}
		return 0
	})
	for _, e := range entries {
		switch e.mediaType {
		case typeJSON, "application/*", "*/*":
			return typeJSON
		case typeYAML, typeProtobuf:
			return e.mediaType
		}
	}
	return ""
}
