// Package floor is the barest line there can be, so that what a line costs can be told from what two more processes on the way cost. A
// front terminates TLS as kas does, a back asks the API server as agentk does, and between them is one hop of plain TCP. There is nothing
// else: no gRPC, no WebSocket, no identity, no metrics, no limits, no cancelling, and bodies are whole in memory. It carries what a
// benchmark sends and is good for nothing else.
//
// There are three forms. Requests has net/http's server in the front and net/http's transport in the back, and one connection between
// them, on which each request is one message and each answer another: the least that a line which understands HTTP can cost with
// net/http at both ends. Lean has only net/http's parser and printer: a request stays on one goroutine in each process, with connections that
// it shares with no other, so that nothing wakes anything but the next process. Nobody watches there whether the client is still
// here. Pipe understands nothing: the front decrypts what a client sends, the back encrypts it for the API server, on one connection each
// for every connection of a client. That is what processes and TLS cost alone.
//
// A relay between front and back passes messages on: the hop between two kas.
package floor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"gitlab.com/agentk/agentk/internal/gcfloor"
)

// The forms.
const (
	Requests = "requests"
	Lean     = "lean"
	Pipe     = "pipe"
)

// The parts that are processes, and what Run wants to know of each after its name.
const (
	// Front: the form, the back's address, and the files of a certificate and its key.
	Front = "front"
	// Relay: the back's address.
	Relay = "relay"
	// Back: the form, host:port of the API server, and the file of the authority that it is trusted by.
	Back = "back"
)

var errUsage = errors.New("usage: front FORM BACK CERTIFICATE KEY | relay BACK | back FORM API AUTHORITY")

// Run is one part, until ctx ends. It listens on a free port of loopback and says where to standard output. Garbage is collected as
// rarely as in the daemons.
func Run(ctx context.Context, args []string) error {
	serve, err := part(args)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	ctx, cancel := context.WithCancel(ctx)
	collecting := make(chan struct{})
	go func() {
		defer close(collecting)
		_ = gcfloor.Run(ctx) // never fails
	}()
	defer func() { <-collecting }()
	defer cancel()
	return serve(ctx, ln)
}

// part is what some arguments ask for.
func part(args []string) (func(context.Context, net.Listener) error, error) {
	switch {
	case len(args) == 5 && args[0] == Front:
		certificate, err := tls.LoadX509KeyPair(args[3], args[4])
		if err != nil {
			return nil, err
		}
		return front(args[1], args[2], serverTLS(certificate))
	case len(args) == 2 && args[0] == Relay:
		return func(ctx context.Context, ln net.Listener) error { return relay(ctx, ln, args[1]) }, nil
	case len(args) == 4 && args[0] == Back:
		authority, err := os.ReadFile(args[3])
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(authority) {
			return nil, fmt.Errorf("no certificate in %s", args[3])
		}
		return back(args[1], args[2], clientTLS(pool))
	default:
		return nil, fmt.Errorf("%w, not %s", errUsage, strings.Join(args, " "))
	}
}

func front(form, address string, secure *tls.Config) (func(context.Context, net.Listener) error, error) {
	serve, ok := map[string]func(context.Context, net.Listener, string) error{
		Requests: frontRequests, Lean: frontLean, Pipe: frontPipe,
	}[form]
	if !ok {
		return nil, errUsage
	}
	return func(ctx context.Context, ln net.Listener) error {
		return serve(ctx, tls.NewListener(ln, secure), address)
	}, nil
}

func back(form, api string, secure *tls.Config) (func(context.Context, net.Listener) error, error) {
	serve, ok := map[string]func(context.Context, net.Listener, string, *tls.Config) error{
		Requests: backRequests, Lean: backLean, Pipe: backPipe,
	}[form]
	if !ok {
		return nil, errUsage
	}
	return func(ctx context.Context, ln net.Listener) error { return serve(ctx, ln, api, secure) }, nil
}

// serverTLS and clientTLS are for HTTP/1.1, which both sides of the comparison speak.
func serverTLS(certificate tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

func clientTLS(authority *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: authority, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}
