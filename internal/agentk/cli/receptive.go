package cli

import (
	"fmt"

	"github.com/spf13/pflag"
)

// receptiveFlags belong to agents that kas dials. They are known, so that whoever gives one learns what is the matter.
var receptiveFlags = []string{
	"api-listen-network", "api-listen-address", "api-cert-file", "api-key-file", "api-client-ca-cert-file", "api-jwt-file",
	"private-api-listen-network", "private-api-listen-address", "private-api-cert-file", "private-api-key-file",
	"private-api-ca-cert-file", "private-api-jwt-file",
}

const receptiveSwitch = "api-mtls"

func bindReceptive(f *pflag.FlagSet) {
	for _, name := range receptiveFlags {
		f.String(name, "", "")
		_ = f.MarkHidden(name) // it exists
	}
	f.Bool(receptiveSwitch, false, "")
	_ = f.MarkHidden(receptiveSwitch)
}

func (o *options) refuseReceptive(f *pflag.FlagSet) error {
	for _, name := range append([]string{receptiveSwitch}, receptiveFlags...) {
		if f.Changed(name) {
			return fmt.Errorf("--%s: agents that kas connects to are not supported yet", name)
		}
	}
	return nil
}
