package badlink

import (
	"context"
	"errors"
	"net"
	"testing"
)

func TestLink_Broken_TellsWhoBrokeOff(t *testing.T) {
	greet := serve(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("hello"))
		_, _ = c.Read(make([]byte, 1))
		kill(c)
	})
	nobody, connected := errors.New("nobody is there"), make(chan struct{})
	for _, tt := range []struct {
		name    string
		dial    func(context.Context) (net.Conn, error)
		by      Direction
		reached bool
		act     func(c *net.TCPConn)
	}{
		{"the client", To(greet), ToClient, true, kill},
		{"the server", To(greet), ToServer, true, func(c *net.TCPConn) { _, _ = c.Write([]byte("x")) }},
		{"no server", func(context.Context) (net.Conn, error) { <-connected; return nil, nobody }, ToServer, false, func(*net.TCPConn) { close(connected) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			breaks := make(chan Break, 10)
			c := dial(t, through(t, Config{Dial: tt.dial, Broken: func(b Break) { breaks <- b }}))
			if tt.reached {
				if _, err := c.Read(make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
			}
			tt.act(c)
			b := <-breaks
			if b.By != tt.by || (b.Server != nil) != tt.reached || b.Err == nil || b.Client == nil {
				t.Error(b)
			}
		})
	}
}
