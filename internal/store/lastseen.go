package store

import (
	"container/list"
	"time"
)

// lastSeen remembers when each agent was last seen, for a bounded number of agents: the one not seen for longest gives way.
type lastSeen struct {
	limit int
	order *list.List // of sighting, newest first
	byID  map[int64]*list.Element
}

type sighting struct {
	agentID int64
	at      time.Time
}

func newLastSeen(limit int) lastSeen {
	return lastSeen{limit: limit, order: list.New(), byID: map[int64]*list.Element{}}
}

func (l *lastSeen) mark(agentID int64, now time.Time) {
	if e, ok := l.byID[agentID]; ok {
		e.Value = sighting{agentID: agentID, at: now}
		l.order.MoveToFront(e)
		return
	}
	if l.order.Len() >= l.limit {
		l.drop(l.order.Back())
	}
	l.byID[agentID] = l.order.PushFront(sighting{agentID: agentID, at: now})
}

func (l *lastSeen) at(agentID int64) (time.Time, bool) {
	e, ok := l.byID[agentID]
	if !ok {
		return time.Time{}, false
	}
	return e.Value.(sighting).at, true
}

func (l *lastSeen) dropBefore(t time.Time) {
	for e := l.order.Back(); e != nil && e.Value.(sighting).at.Before(t); e = l.order.Back() {
		l.drop(e)
	}
}

func (l *lastSeen) drop(e *list.Element) {
	delete(l.byID, e.Value.(sighting).agentID)
	l.order.Remove(e)
}
