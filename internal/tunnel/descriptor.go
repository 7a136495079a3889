package tunnel

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"gitlab.com/agentk/agentk/api/reversetunnel"
	"gitlab.com/agentk/agentk/api/reversetunnel/info"
	"gitlab.com/agentk/agentk/internal/fault"
)

// An agent of ours announces by a service of this name how many streams it may hold, with the method "MaxStreams.<n>", and by which
// id its pod registers, with "Pod.<n>". Stock servers match exact services and never look at it.
const (
	extTunnelService    = "agentk.extensions.Tunnel"
	maxStreamsMethodPre = "MaxStreams."
	podMethodPre        = "Pod."
)

// Bounds of what a peer may announce.
const (
	maxServices = 64
	maxMethods  = 256
	maxNameLen  = 256
)

// descriptor is what an agent announced on one stream. Streams of one connection share it.
type descriptor struct {
	raw []byte
	// methods holds "service/method".
	methods map[string]struct{}
	// maxStreams is 0 when the agent did not say.
	maxStreams int
	// pod is the id that the agent's pod registers by; 0 when it did not say.
	pod int64
}

// parseDescriptor reads a serialized ConnectRequest that must be a descriptor. Errors are faults of kind InvalidArgument.
func parseDescriptor(raw []byte) (*descriptor, error) {
	req := &reversetunnel.ConnectRequest{}
	if err := proto.Unmarshal(raw, req); err != nil {
		return nil, protocolFault("first message is not a ConnectRequest")
	}
	msg, ok := req.Msg.(*reversetunnel.ConnectRequest_Descriptor_)
	if !ok || msg.Descriptor_.GetAgentDescriptor() == nil {
		return nil, protocolFault("first message must be a descriptor, got %s", memberName(req))
	}
	services := msg.Descriptor_.AgentDescriptor.Services
	if len(services) > maxServices {
		return nil, protocolFault("descriptor has %d services, at most %d are accepted", len(services), maxServices)
	}
	d := &descriptor{raw: bytes.Clone(raw), methods: make(map[string]struct{}, len(services))}
	for _, s := range services {
		if s.Name == "" || len(s.Name) > maxNameLen || len(s.Methods) > maxMethods {
			return nil, protocolFault("descriptor has a service without a name, with a name over %d bytes or over %d methods", maxNameLen, maxMethods)
		}
		for _, m := range s.Methods {
			if m.Name == "" || len(m.Name) > maxNameLen {
				return nil, protocolFault("service %q has a method without a name or with a name over %d bytes", s.Name, maxNameLen)
			}
			d.add(s.Name, m.Name)
		}
	}
	return d, nil
}

func (d *descriptor) add(service, method string) {
	if service == extTunnelService {
		if n, err := strconv.Atoi(strings.TrimPrefix(method, maxStreamsMethodPre)); err == nil && n > 0 {
			d.maxStreams = n
		}
		if text, ok := strings.CutPrefix(method, podMethodPre); ok {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				d.pod = n
			}
		}
		return
	}
	d.methods[service+"/"+method] = struct{}{}
}

// has says whether every wanted "service/method" is announced.
func (d *descriptor) has(wanted ...string) bool {
	return !slices.ContainsFunc(wanted, func(w string) bool { _, ok := d.methods[w]; return !ok })
}

// announce builds the serialized descriptor of an agent: the methods it serves, its extensions, its number of streams and its pod.
func announce(services map[string]map[string]Handler, extensions []string, maxStreams int, pod int64) ([]byte, error) {
	byService := map[string][]string{extTunnelService: {maxStreamsMethodPre + strconv.Itoa(maxStreams)}}
	if pod != 0 {
		byService[extTunnelService] = append(byService[extTunnelService], podMethodPre+strconv.FormatInt(pod, 10))
	}
	for service, methods := range services {
		for method := range methods {
			byService[service] = append(byService[service], method)
		}
	}
	for _, ext := range extensions {
		service, method, ok := strings.Cut(ext, "/")
		if !ok {
			return nil, fmt.Errorf("extension %q is not of the form service/method", ext)
		}
		byService[service] = append(byService[service], method)
	}
	names := make([]string, 0, len(byService))
	for name := range byService {
		names = append(names, name)
	}
	sort.Strings(names)
	d := &info.AgentDescriptor{}
	for _, name := range names {
		s := &info.Service{Name: name}
		sort.Strings(byService[name])
		for _, method := range byService[name] {
			s.Methods = append(s.Methods, &info.Method{Name: method})
		}
		d.Services = append(d.Services, s)
	}
	return proto.Marshal(&reversetunnel.ConnectRequest{Msg: &reversetunnel.ConnectRequest_Descriptor_{
		Descriptor_: &reversetunnel.Descriptor{AgentDescriptor: d},
	}})
}

// protocolFault is a peer's breach of the protocol.
func protocolFault(format string, args ...any) *fault.Error {
	return fault.New(fault.InvalidArgument, fault.Agent, "agent broke the tunnel protocol: "+format, args...)
}

func memberName(req *reversetunnel.ConnectRequest) string {
	switch req.Msg.(type) {
	case *reversetunnel.ConnectRequest_Descriptor_:
		return "a descriptor without agent_descriptor"
	case *reversetunnel.ConnectRequest_Header:
		return "header"
	case *reversetunnel.ConnectRequest_Message:
		return "message"
	case *reversetunnel.ConnectRequest_Trailer:
		return "trailer"
	case *reversetunnel.ConnectRequest_Error:
		return "error"
	default:
		return "no member"
	}
}
