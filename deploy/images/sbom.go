package main

import (
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
)

// spdx is a bill of materials in the JSON form of SPDX 2.3.
type spdx struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	CreationInfo  spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo"`
	Download         string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	Copyright        string         `json:"copyrightText"`
	Purpose          string         `json:"primaryPackagePurpose,omitempty"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	References       []spdxRef      `json:"externalRefs,omitempty"`
	Comment          string         `json:"comment,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const (
	unknown    = "NOASSERTION"
	documentID = "SPDXRef-DOCUMENT"
)

// bill says what an image consists of, as its binaries themselves say: the linker writes into each which modules it holds.
func (s settings) bill(ctx context.Context, i image, p platform, binaries []string) ([]byte, error) {
	created := s.created.Format(time.RFC3339)
	doc := &spdx{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: documentID, Name: i.name + "-" + s.version + "-" + p.fileName(),
		CreationInfo: spdxCreation{Created: created, Creators: []string{"Tool: " + projectURL + "/deploy/images"}},
	}
	all := sha256.New()
	for _, binary := range binaries {
		sum, err := doc.addBinary(s, binary)
		if err != nil {
			return nil, err
		}
		all.Write(sum)
	}
	doc.Namespace = projectURL + "/sbom/" + doc.Name + "-" + hex.EncodeToString(all.Sum(nil))
	roots, err := s.moduleVersion(ctx, rootsModule)
	if err != nil {
		return nil, err
	}
	ca := modulePackage(rootsModule, roots)
	ca.Comment = "etc/ssl/certs/ca-certificates.crt"
	doc.add(ca)
	doc.relate(documentID, "DESCRIBES", ca.ID)
	return toJSON(doc)
}

// addBinary adds a binary with the modules linked into it, and returns its SHA-256.
func (d *spdx) addBinary(s settings, binary string) ([]byte, error) {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	name := filepath.Base(binary)
	own := spdxPackage{
		ID: "SPDXRef-binary-" + name, Name: name, Version: s.version, Download: "git+" + projectURL + "@" + s.commit,
		LicenseConcluded: "MIT", LicenseDeclared: "MIT", Copyright: unknown, Purpose: "APPLICATION",
		Checksums:  []spdxChecksum{{Algorithm: "SHA256", Value: hex.EncodeToString(sum[:])}},
		References: []spdxRef{goReference(info.Main.Path, s.version)},
		Comment:    "usr/bin/" + name,
	}
	d.add(own)
	d.relate(documentID, "DESCRIBES", own.ID)
	modules := append([]*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}, info.Deps...)
	for _, m := range modules {
		if m.Replace != nil {
			m = m.Replace
		}
		p := modulePackage(m.Path, m.Version)
		d.add(p)
		d.relate(own.ID, "CONTAINS", p.ID)
	}
	return sum[:], nil
}

// add adds a package once; binaries of one image share modules.
func (d *spdx) add(p spdxPackage) {
	for _, there := range d.Packages {
		if there.ID == p.ID {
			return
		}
	}
	d.Packages = append(d.Packages, p)
}

func (d *spdx) relate(from, how, to string) {
	d.Relationships = append(d.Relationships, spdxRelationship{Element: from, Type: how, Related: to})
}

func modulePackage(module, version string) spdxPackage {
	return spdxPackage{
		ID: "SPDXRef-module-" + idText(module) + "-" + idText(version), Name: module, Version: version,
		Download: unknown, LicenseConcluded: unknown, LicenseDeclared: unknown, Copyright: unknown, Purpose: "LIBRARY",
		References: []spdxRef{goReference(module, version)},
	}
}

// goReference is the package URL that scanners look vulnerabilities up with.
func goReference(module, version string) spdxRef {
	return spdxRef{Category: "PACKAGE-MANAGER", Type: "purl", Locator: fmt.Sprintf("pkg:golang/%s@%s", module, url.QueryEscape(version))}
}

// idText replaces what an SPDX identifier may not hold.
func idText(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, text)
}
