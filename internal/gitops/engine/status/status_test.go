package status

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestEncode_FitsAndSaysWhatIsMissing(t *testing.T) {
	d := Document{State: Failed, Error: strings.Repeat("é", maxText)}
	for i := range 5000 {
		o := Object{Kind: "ConfigMap", Namespace: "ns", Name: fmt.Sprintf("n%d", i), Message: strings.Repeat("m", 300)}
		if i%1000 == 999 {
			o.Error = strings.Repeat("e", 10*maxText)
		}
		d.Objects = append(d.Objects, o)
	}
	data, err := Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > maxBytes {
		t.Errorf("%d bytes", len(data))
	}
	var got Document
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Omitted == 0 || got.Omitted+len(got.Objects) != 5000 {
		t.Errorf("%d objects and %d omitted", len(got.Objects), got.Omitted)
	}
	for i := range 6 {
		if (got.Objects[i].Error != "") != (i < 5) {
			t.Errorf("object %d has error %.10q: those with errors come first", i, got.Objects[i].Error)
		}
	}
	if n := len(got.Objects[0].Error); n > maxText+len("…") {
		t.Errorf("an error of %d bytes", n)
	}
	if !strings.HasSuffix(got.Error, "é…") {
		t.Errorf("the error was cut inside a character: %q", got.Error[len(got.Error)-6:])
	}
}

func TestEncode_KeepsWhatFits(t *testing.T) {
	d := Document{Objects: []Object{{Kind: "B", Name: "b"}, {Kind: "A", Name: "a"}}}
	data, err := Encode(d)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `[{"kind":"A"`) || strings.Contains(string(data), "omitted") {
		t.Errorf("%s", data)
	}
	if d.Objects[0].Kind != "B" {
		t.Error("the caller's objects were sorted")
	}
}
