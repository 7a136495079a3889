package child

import "strings"

const (
	headBytes = 2 << 10
	tailBytes = 2 << 10
	hidden    = "[secret]"
)

// words keeps the beginning and the end of a text: a crash names its reason first, other errors come last. It is written to by one
// goroutine and read after that has ended.
type words struct {
	head, tail []byte
	cut        bool
}

// Write takes more text; it never fails.
func (w *words) Write(p []byte) (int, error) {
	n := len(p)
	room := min(headBytes-len(w.head), n)
	w.head = append(w.head, p[:room]...)
	w.tail = append(w.tail, p[room:]...)
	if over := len(w.tail) - tailBytes; over > 0 {
		w.tail = append(w.tail[:0], w.tail[over:]...)
		w.cut = true
	}
	return n, nil
}

// text is what is kept, without secrets.
func (w *words) text(secrets []string) string {
	all := string(w.head)
	if w.cut {
		all += "\n[…]\n"
	}
	all += string(w.tail)
	for _, s := range secrets {
		if s != "" {
			all = strings.ReplaceAll(all, s, hidden)
		}
	}
	return strings.TrimSpace(strings.ToValidUTF8(all, "?"))
}
