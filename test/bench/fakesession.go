package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

const (
	execProtocol    = "v5.channel.k8s.io"
	forwardProtocol = "SPDY/3.1+portforward.k8s.io"

	// The channels of execProtocol.
	stdinChannel, stdoutChannel, errorChannel, closeChannel = 0, 1, 3, 255
)

// execSink is a command that reads its standard input to the end and says how much that was.
func execSink(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{execProtocol}, ReadBufferSize: 64 << 10}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // answered
	}
	defer func() { _ = conn.Close() }()
	total, err := readStdin(conn)
	status := metav1.Status{Status: metav1.StatusSuccess}
	if err != nil {
		status = metav1.Status{Status: metav1.StatusFailure, Message: fmt.Sprintf("standard input had %d bytes: %v", total, err)}
	}
	_ = conn.WriteMessage(websocket.BinaryMessage, fmt.Appendf([]byte{stdoutChannel}, "%d", total))
	text, err := json.Marshal(status)
	if err != nil {
		return
	}
	_ = conn.WriteMessage(websocket.BinaryMessage, append([]byte{errorChannel}, text...))
	_ = conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
}

// readStdin reads until the client says that standard input has ended.
func readStdin(conn *websocket.Conn) (int64, error) {
	var total int64
	head, buffer := make([]byte, 1), make([]byte, 64<<10)
	for {
		_, message, err := conn.NextReader()
		if err != nil {
			return total, err
		}
		if _, err := io.ReadFull(message, head); err != nil {
			return total, err
		}
		if head[0] == closeChannel {
			return total, nil
		}
		n, err := io.CopyBuffer(discard{}, message, buffer)
		if err != nil {
			return total, err
		}
		if head[0] == stdinChannel {
			total += n
		}
	}
}

// discard has no ReadFrom, so that copies to it take the buffer they are given.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// forwardSink is a port that takes what is to be moved, says how much that was, and closes. It serves one connection.
func forwardSink(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{Subprotocols: []string{forwardProtocol}, ReadBufferSize: 64 << 10}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // answered
	}
	faults := make(chan httpstream.Stream, 1)
	connection, err := spdy.NewServerConnection(portforward.NewTunnelingConnection("fake", conn), func(s httpstream.Stream, accepted <-chan struct{}) error {
		if s.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
			faults <- s
			return nil
		}
		go func() {
			<-accepted
			n, _ := io.CopyBuffer(discard{}, io.LimitReader(s, moved), make([]byte, 64<<10)) // what came is what is answered
			_, _ = io.WriteString(s, strconv.FormatInt(n, 10))
			_ = s.Close()
			_ = (<-faults).Close()
		}()
		return nil
	})
	if err != nil {
		return
	}
	<-connection.CloseChan()
	_ = connection.Close()
}

// wantsWebSocket says whether a request asks for the upgrade that kubectl asks for.
func wantsWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}
