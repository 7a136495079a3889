package badlink

import (
	"fmt"
	"net"
	"time"
)

// Break tells how an end broke a connection off.
type Break struct {
	At time.Time
	// By is the end that did, by the direction that leads there.
	By Direction
	// Client is the address of the client, Server that of the server; nil if it was never reached.
	Client, Server net.Addr
	Err            error
	Counters
}

func (b Break) String() string {
	who := "the client"
	if b.By == ToServer {
		who = "the server"
	}
	return fmt.Sprintf("%s %s broke off (client %v, server %v, %d bytes there, %d back): %v",
		b.At.Format("15:04:05.000"), who, b.Client, b.Server, b.ToServer, b.ToClient, b.Err)
}

// broke reports that an end broke the connection off, unless the link itself has done so.
func (c *conn) broke(by Direction, err error) {
	c.mu.Lock()
	b := Break{At: time.Now(), By: by, Client: c.ends[ToClient].RemoteAddr(), Err: err, Counters: c.counters()}
	if server := c.ends[ToServer]; server != nil {
		b.Server = server.RemoteAddr()
	}
	over := c.over
	c.mu.Unlock()
	if c.link.cfg.Broken != nil && !over {
		c.link.cfg.Broken(b)
	}
}
