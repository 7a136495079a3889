// Command sink is what stands in a Pod at the other end of an exec and of a forwarded port: it takes bytes, does nothing else with them,
// so that the time is that of the way there, and says how many they were. Or it returns each at once.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "stdin":
		n, err := take(os.Stdin)
		if err != nil {
			return err
		}
		_, err = fmt.Print(n)
		return err
	case len(args) == 1 && args[0] == "echo":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case len(args) == 3 && args[0] == "listen":
		size, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		return listen(args[1], size)
	default:
		return errors.New("usage: sink stdin | sink echo | sink listen ADDRESS SIZE")
	}
}

// listen answers every connection after size bytes, or at the end if there are fewer: a forwarded port does not tell of the end.
func listen(address string, size int64) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = conn.Close() }()
			n, err := take(io.LimitReader(conn, size))
			if err != nil {
				log.Print(err)
				return
			}
			_, _ = fmt.Fprint(conn, n) // whoever only looked whether the port is open has gone
		}()
	}
}

// take reads to the end.
func take(from io.Reader) (int64, error) {
	buffer, total := make([]byte, 64<<10), int64(0)
	for {
		n, err := from.Read(buffer)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
