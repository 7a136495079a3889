// Command web is what tests run in Pods: an HTTP server on :8080, a TCP echo on :9000 and a TCP transfer service on :9001. Called as
// "web get URL" it fetches one page, with the Pod's own CA and token when the page is served over TLS.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "get" {
		if err := get(os.Args[2]); err != nil {
			log.Fatal(err)
		}
		return
	}
	go serve(":9000", echo)
	go serve(":9001", transfer)
	log.Print("listening on :8080")
	log.Fatal(http.ListenAndServe(":8080", http.HandlerFunc(hello)))
}

// hello answers who serves, and logs who asked.
func hello(w http.ResponseWriter, r *http.Request) {
	log.Printf("%s %s from %s", r.Method, r.URL.Path, r.RemoteAddr)
	host, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "hello from %s %s\n", host, os.Getenv("GREETING"))
}

// serve hands every connection to a goroutine that lives as long as the connection.
func serve(address string, handle func(net.Conn) error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer conn.Close()
			if err := handle(conn); err != nil {
				log.Printf("%s: %v", address, err)
			}
		}()
	}
}
