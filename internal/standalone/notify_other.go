//go:build !linux

package standalone

import "errors"

// notifier tells nothing where there is no inotify.
type notifier struct {
	changes chan string
	lost    chan error
}

func newNotifier() (*notifier, error) { return nil, errors.ErrUnsupported }

func (*notifier) close()                 {}
func (*notifier) add(string) error       { return errors.ErrUnsupported }
func (*notifier) keep(func(string) bool) {}
