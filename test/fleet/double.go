package fleet

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// idle is how long the double keeps a connection on which nothing is asked: short, so that those of a crowd of requests are soon gone.
const idle = 2 * time.Second

// Double is a cluster that does what the real API server cannot be made to do: answer late, answer with many bytes, take an upgrade without
// a node. Its paths are /version, /late?after=<duration>, /bytes?n=<number> and /session, an upgrade that echoes.
type Double struct {
	server *httptest.Server
	dir    string
	late   atomic.Int64
}

func startDouble() (*Double, error) {
	dir, err := os.MkdirTemp("", "fleet-double")
	if err != nil {
		return nil, err
	}
	d := &Double{dir: dir}
	mux := http.NewServeMux()
	mux.HandleFunc("/version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"major":"1","minor":"37","gitVersion":"v1.37.0"}`)
	})
	mux.HandleFunc("/late", d.answerLate)
	mux.HandleFunc("/bytes", answerBytes)
	mux.HandleFunc("/session", takeSession)
	d.server = httptest.NewUnstartedServer(mux)
	d.server.Config.IdleTimeout = idle
	d.server.StartTLS()
	return d, nil
}

// Late is how many requests for /late wait for their answer now.
func (d *Double) Late() int { return int(d.late.Load()) }

// args make an agentk use the double.
func (d *Double) args() ([]string, error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["double"] = &clientcmdapi.Cluster{
		Server:                   d.server.URL,
		CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Certificate().Raw}),
	}
	config.AuthInfos["double"] = &clientcmdapi.AuthInfo{Token: "double"}
	config.Contexts["double"] = &clientcmdapi.Context{Cluster: "double", AuthInfo: "double"}
	config.CurrentContext = "double"
	path := filepath.Join(d.dir, "kubeconfig")
	return []string{"--kubeconfig", path}, clientcmd.WriteToFile(*config, path)
}

func (d *Double) close() {
	d.server.CloseClientConnections()
	d.server.Close()
	_ = os.RemoveAll(d.dir)
}

func (d *Double) answerLate(w http.ResponseWriter, r *http.Request) {
	after, err := time.ParseDuration(r.URL.Query().Get("after"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	d.late.Add(1)
	defer d.late.Add(-1)
	wait, cancel := context.WithTimeout(r.Context(), after)
	defer cancel()
	<-wait.Done()
	_, _ = io.WriteString(w, "late")
}

func answerBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(n))
	part := make([]byte, 64<<10)
	for n > 0 {
		m, err := w.Write(part[:min(n, len(part))])
		if err != nil {
			return
		}
		n -= m
	}
}

func takeSession(w http.ResponseWriter, r *http.Request) {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
	if err == nil {
		_, _ = io.Copy(conn, buffered)
	}
}
