package gitaly

import (
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
)

// alertPeriod: hundreds of agents poll the same server, and one line a minute is loud enough.
const alertPeriod = time.Minute

// alerts logs what only the operator can mend.
type alerts struct {
	log *zap.Logger
	now func() time.Time

	// mu guards last, which has when each alert was logged.
	mu   sync.Mutex
	last map[alertKey]time.Time
}

type alertKey struct {
	address string
	code    codes.Code
}

func newAlerts(log *zap.Logger, now func() time.Time) *alerts {
	return &alerts{log: log, now: now, last: map[alertKey]time.Time{}}
}

func (a *alerts) raise(address string, code codes.Code, text string, fields ...zap.Field) {
	if !a.due(alertKey{address, code}) {
		return
	}
	if strings.Contains(address, "@") {
		address = "(not shown: it may hold a password)"
	}
	a.log.Error(text, append(fields, zap.String("gitaly_address", address), zap.Stringer("grpc_code", code))...)
}

func (a *alerts) due(key alertKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, logged := a.last[key]
	if logged && a.now().Sub(last) < alertPeriod {
		return false
	}
	a.last[key] = a.now()
	return true
}

func (a *alerts) reap() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, last := range a.last {
		if a.now().Sub(last) >= alertPeriod {
			delete(a.last, key)
		}
	}
}
