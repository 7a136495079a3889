package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
)

// echo sends back what it receives, as it comes.
func echo(conn net.Conn) error {
	_, err := io.Copy(conn, conn)
	return err
}

// transfer serves, any number of times per connection, the lines "put N" (N bytes follow; answered by a line with their SHA-256 in hex)
// and "get N" (answered by N bytes, byte i being i modulo 251). Lengths are told first because a port-forward passes on no half-close.
func transfer(conn net.Conn) error {
	in := bufio.NewReader(conn)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var verb string
		var size int64
		if _, err := fmt.Sscanf(line, "%s %d\n", &verb, &size); err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
		switch verb {
		case "put":
			err = put(conn, in, size)
		case "get":
			_, err = io.CopyN(conn, &pattern{}, size)
		default:
			err = fmt.Errorf("line %q: neither put nor get", line)
		}
		if err != nil {
			return err
		}
	}
}

func put(out io.Writer, in io.Reader, size int64) error {
	sum := sha256.New()
	if _, err := io.CopyN(sum, in, size); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "%x\n", sum.Sum(nil))
	return err
}

// pattern is an endless stream whose bytes tell where they belong; 251 is prime, so shifted or swapped blocks show.
type pattern struct{ next int }

func (p *pattern) Read(buffer []byte) (int, error) {
	for i := range buffer {
		buffer[i] = byte(p.next)
		p.next = (p.next + 1) % 251
	}
	return len(buffer), nil
}
