package kas_test

import (
	"bytes"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
)

// aMoment is next to no time.
var aMoment = durationpb.New(time.Millisecond)

// logBuffer keeps a log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
