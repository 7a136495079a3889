package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// rootsModule is where the CA bundle comes from: the Mozilla root store as the Go project publishes it. go.sum pins it, so that the
// bundle is the same wherever an image is built.
const rootsModule = "golang.org/x/crypto/x509roots/fallback"

// users is what programs need that ask who they are. Nobody logs in.
const users = `root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
`

const groups = `root:x:0:
nobody:x:65534:
nonroot:x:65532:
`

// baseLayer is everything but the program. All images and platforms share it.
func baseLayer(s settings) (layer, error) {
	licence, err := os.ReadFile(filepath.Join(s.source, "LICENSE"))
	if err != nil {
		return layer{}, err
	}
	certificates, err := certificates()
	if err != nil {
		return layer{}, err
	}
	return newLayer("certificates and users", map[string]file{
		"etc/passwd":                        {content: []byte(users), mode: 0o644},
		"etc/group":                         {content: []byte(groups), mode: 0o644},
		"etc/ssl/certs/ca-certificates.crt": {content: certificates, mode: 0o644},
		"home/nonroot":                      {mode: 0o755, folder: true},
		"tmp":                               {mode: 0o1777, folder: true},
		"usr/share/doc/agentk/LICENSE":      {content: licence, mode: 0o644},
	}, s.created)
}

// certificates is the CA bundle in PEM. A root with a condition that PEM cannot state, such as "only what was issued before", is left
// out: in a file it would be trusted without the condition.
func certificates() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("CA bundle: %w", err)
		}
	}
	return out.Bytes(), nil
}
