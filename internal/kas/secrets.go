package kas

import (
	"encoding/base64"
	"fmt"

	"gitlab.com/agentk/agentk/internal/secretfile"
)

// Sizes of the key for WebSocket tokens, in bytes: the smallest is what its algorithm wants, the largest its block size.
const (
	minWebSocketKey = 64
	maxWebSocketKey = 72
)

// checkWebSocketKey reads the key for the WebSocket tokens of browsers, so that a mistake in it is known at the start.
func checkWebSocketKey(path string) error {
	text, err := secretfile.New(path).Read()
	if err != nil {
		return fmt.Errorf("read the WebSocket token secret: %w", err)
	}
	// The decoder skips line ends and nothing else; its error tells a position only.
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return fmt.Errorf("WebSocket token secret %s: not Base64: %w", path, err)
	}
	if len(key) < minWebSocketKey || len(key) > maxWebSocketKey {
		return fmt.Errorf("WebSocket token secret %s: %d bytes, must be %d to %d", path, len(key), minWebSocketKey, maxWebSocketKey)
	}
	return nil
}
