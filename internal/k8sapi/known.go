package k8sapi

import (
	"net/http"
	"sync"

	"google.golang.org/protobuf/types/known/anypb"

	"gitlab.com/agentk/agentk/api/kubernetesapi"
)

const (
	// maxKnown bounds how many identities are remembered, and maxKnownSize how many bytes each has on the wire: together a megabyte or two.
	maxKnown     = 128
	maxKnownSize = 4 << 10
	extraType    = "type.googleapis.com/gitlab.agent.kubernetes_api.rpc.HeaderExtra"
)

// knownIdentities remembers what the identities that kas sent say and how they are written as headers: a job or a user makes one request
// after the other, each with the same bytes. What is remembered follows from those bytes alone. Identities that are refused, and extras
// that say something of one request only, are not remembered.
type knownIdentities struct {
	// mu guards all below. byValue has the extras by their serialized form.
	mu      sync.Mutex
	byValue map[string]*saidExtra
}

// saidExtra is a HeaderExtra. It is not changed.
type saidExtra struct {
	escapedPath string
	// identity has the headers of the identity; nil: there is none. invalid is why it cannot be sent, a refusal.
	identity http.Header
	invalid  error
}

// read reads the extra of a request header, which may be nil. The error is a refusal.
func (k *knownIdentities) read(extra *anypb.Any) (*saidExtra, error) {
	if extra == nil {
		return &saidExtra{}, nil
	}
	if extra.GetTypeUrl() != extraType || len(extra.GetValue()) > maxKnownSize {
		return readExtra(extra)
	}
	if said := k.get(extra.GetValue()); said != nil {
		return said, nil
	}
	said, err := readExtra(extra)
	if err == nil && said.invalid == nil && said.escapedPath == "" {
		k.put(extra.GetValue(), said)
	}
	return said, err
}

func (k *knownIdentities) get(value []byte) *saidExtra {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byValue[string(value)]
}

func (k *knownIdentities) put(value []byte, said *saidExtra) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byValue == nil || len(k.byValue) >= maxKnown { // those in use are soon back
		k.byValue = map[string]*saidExtra{}
	}
	k.byValue[string(value)] = said
}

func readExtra(extra *anypb.Any) (*saidExtra, error) {
	h := &kubernetesapi.HeaderExtra{}
	if err := extra.UnmarshalTo(h); err != nil {
		return nil, refuse("extra of the request header: %v", err)
	}
	said := &saidExtra{escapedPath: h.GetEscapedPath()}
	id := h.GetImpConfig()
	if id.GetUsername() == "" && len(id.GetGroups()) == 0 && id.GetUid() == "" && len(id.GetExtra()) == 0 {
		return said, nil
	}
	said.identity = http.Header{}
	said.invalid = writeIdentity(said.identity, id)
	return said, nil
}
