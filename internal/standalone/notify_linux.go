package standalone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

const (
	// noticed is what is told of a folder: whatever changes its entries, what they hold, and the folder's own end.
	noticed = syscall.IN_CREATE | syscall.IN_DELETE | syscall.IN_MOVED_FROM | syscall.IN_MOVED_TO | syscall.IN_MODIFY | syscall.IN_ATTRIB |
		syscall.IN_DELETE_SELF | syscall.IN_MOVE_SELF | syscall.IN_ONLYDIR
	// noticeBytes takes many events at once; the longest has 272 bytes.
	noticeBytes = 4 << 10
)

// errOverflow means that the kernel has dropped events.
var errOverflow = errors.New("more changes than the kernel remembers")

// notifier tells about changes in folders. It reads into a buffer on the heap: the 64 KiB that the usual library has on the stack of its
// goroutine raise the average stack of a kas at rest so far that the runtime gives each new goroutine, and hence each agent that
// connects before the next garbage collection, stacks of twice the size it needs.
type notifier struct {
	file *os.File
	raw  syscall.RawConn
	// changes are paths: of an entry, or of the folder itself. lost is sent when some are missing.
	changes chan string
	lost    chan error
	done    chan struct{}
	ended   chan struct{}

	// mu guards folders: those watched, by the kernel's number for them.
	mu      sync.Mutex
	folders map[int32]string
}

func newNotifier() (*notifier, error) {
	fd, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &notifier{
		file: os.NewFile(uintptr(fd), "inotify"), changes: make(chan string), lost: make(chan error),
		done: make(chan struct{}), ended: make(chan struct{}), folders: map[int32]string{},
	}
	if n.raw, err = n.file.SyscallConn(); err != nil {
		_ = n.file.Close()
		return nil, err
	}
	go n.read()
	return n, nil
}

// close ends the notifier and waits for it. Nothing else may be called afterwards.
func (n *notifier) close() {
	close(n.done)
	_ = n.file.Close()
	<-n.ended
}

// add watches a folder.
func (n *notifier) add(dir string) error {
	return n.control(func(fd int) error {
		n.mu.Lock() // the first event may come before its number is known here
		defer n.mu.Unlock()
		number, err := syscall.InotifyAddWatch(fd, dir, noticed)
		if err != nil {
			return &os.PathError{Op: "inotify_add_watch", Path: dir, Err: err}
		}
		n.folders[int32(number)] = dir
		return nil
	})
}

// keep stops watching what is not wanted.
func (n *notifier) keep(wanted func(dir string) bool) {
	n.mu.Lock()
	var surplus []int32
	for number, dir := range n.folders {
		if !wanted(dir) {
			surplus = append(surplus, number)
		}
	}
	n.mu.Unlock()
	for _, number := range surplus {
		n.drop(number)
	}
}

// drop stops watching one folder. It fails only if the folder is gone, and its watch with it.
func (n *notifier) drop(number int32) {
	n.forget(number)
	_ = n.control(func(fd int) error {
		_, err := syscall.InotifyRmWatch(fd, uint32(number))
		return err
	})
}

func (n *notifier) control(do func(fd int) error) error {
	var err error
	if outer := n.raw.Control(func(fd uintptr) { err = do(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

func (n *notifier) forget(number int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.folders, number)
}

// read passes events on until close.
func (n *notifier) read() {
	defer close(n.ended)
	buf := make([]byte, noticeBytes)
	for {
		got, err := n.file.Read(buf)
		if err != nil {
			return
		}
		for rest := buf[:got]; len(rest) >= syscall.SizeofInotifyEvent; {
			size := syscall.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			if size > len(rest) {
				break
			}
			if !n.event(rest[:size]) {
				return
			}
			rest = rest[size:]
		}
	}
}

// event passes one on: the number of the folder, what happened, a cookie, a length, and the name of the entry. False: nobody wants more.
func (n *notifier) event(e []byte) bool {
	number, what := int32(binary.NativeEndian.Uint32(e)), binary.NativeEndian.Uint32(e[4:])
	if what&syscall.IN_Q_OVERFLOW != 0 {
		select {
		case n.lost <- errOverflow:
			return true
		case <-n.done:
			return false
		}
	}
	n.mu.Lock()
	dir, known := n.folders[number]
	n.mu.Unlock()
	switch {
	case what&syscall.IN_IGNORED != 0:
		n.forget(number)
		return true
	case !known:
		return true
	case what&syscall.IN_MOVE_SELF != 0:
		n.drop(number) // what is at its path now is another folder
	}
	name, _, _ := bytes.Cut(e[syscall.SizeofInotifyEvent:], []byte{0})
	select {
	case n.changes <- filepath.Join(dir, string(name)):
		return true
	case <-n.done:
		return false
	}
}
