package cli

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"gitlab.com/agentk/agentk/internal/agentk"
	"gitlab.com/agentk/agentk/internal/listen"
	registraragent "gitlab.com/agentk/agentk/internal/registrar/agent"
	"gitlab.com/agentk/agentk/internal/telemetry"
	"gitlab.com/agentk/agentk/internal/tunnel"
)

const (
	defaultGracePeriod = 10 * time.Second
	defaultNetwork     = "tcp"
	defaultAddress     = ":8080"
	// tokenVariable is the environment variable that may hold the agent token; secretVariable is its name in Deployments written by
	// hand.
	tokenVariable  = "AGENTK_TOKEN"
	secretVariable = "AGENT_SECRET_KEY"
)

// options are the values of the flags.
type options struct {
	kasAddress, tokenFile, caFile, oldCAFile, serverName string
	headers                                              []string
	insecure                                             bool
	network, address, certFile, keyFile                  string
	account, accountTokenFile                            string
	maxStreams                                           int
	gracePeriod                                          time.Duration
	logFormat                                            string
	engine, engineMemory                                 string
	valuesURLs                                           []string
	configFile                                           string
	// configToken is the token in the file of --config.
	configToken string
	kubernetes  kubernetesFlags
}

func (o *options) bind(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&o.kasAddress, "kas-address", "", "address of kas: a URL with scheme wss, ws, grpcs or grpc (required)")
	f.StringVar(&o.tokenFile, "token-file", "", "file with the agent token; read again when it changes. Without it "+tokenVariable+" is used")
	f.StringVar(&o.configFile, "config", "",
		"YAML file, or a folder with "+folderFile+", that may hold agent.token and kas_address. Flags and environment count more")
	f.StringVar(&o.caFile, "kas-ca-cert-file", "", "PEM file with certificates to trust for kas besides those of the system")
	f.StringVar(&o.oldCAFile, "ca-cert-file", "", "old name of --kas-ca-cert-file")
	f.StringArrayVar(&o.headers, "kas-header", nil, "header \"Name: value\" for kas, sent with the WebSocket handshake or as gRPC metadata (repeatable)")
	f.BoolVar(&o.insecure, "kas-insecure-skip-tls-verify", false, "do not verify the certificate of kas")
	f.StringVar(&o.serverName, "kas-tls-server-name", "", "name to verify the certificate of kas against, instead of its host name")
	f.StringVar(&o.network, "observability-listen-network", defaultNetwork, "network for metrics and probes: tcp, tcp4, tcp6 or unix")
	f.StringVar(&o.address, "observability-listen-address", defaultAddress, "address for metrics and probes")
	f.StringVar(&o.certFile, "observability-cert-file", "", "PEM file with the certificate for metrics and probes")
	f.StringVar(&o.keyFile, "observability-key-file", "", "PEM file with the key of that certificate")
	f.StringVar(&o.account, "impersonation-service-account", "",
		"service account NAMESPACE/NAME whose tokens, got by TokenRequest, alone are used for requests with an identity from kas")
	f.StringVar(&o.accountTokenFile, "impersonation-token-file", "", "file with such a token, instead of --impersonation-service-account")
	f.IntVar(&o.maxStreams, "tunnel-max-streams", tunnel.DefaultMaxStreams, "requests served at once, at most")
	f.DurationVar(&o.gracePeriod, "shutdown-grace-period", defaultGracePeriod, "how long running requests may go on when the agent is told to stop")
	f.StringVar(&o.logFormat, "log-format", telemetry.FormatJSON, "log lines as json, or for people as console")
	f.StringVar(&o.engine, "gitops-engine", "", "executable of the GitOps engine (default: agentk-gitops beside agentk)")
	f.StringVar(&o.engineMemory, "gitops-memory-limit", "",
		"memory that the GitOps engine may take, such as 512Mi (default: "+memoryVariable+", or 512Mi or what the container has to spare)")
	f.StringArrayVar(&o.valuesURLs, "gitops-values-url", nil,
		"prefix of https URLs that values of charts may be read from (repeatable); without it none")
	bindReceptive(f)
	o.kubernetes.bind(f)
}

// config checks everything and reads the token.
func (o *options) config(p Process, log *zap.Logger) (agentk.Config, error) {
	if err := o.useConfigFile(log); err != nil {
		return agentk.Config{}, err
	}
	cfg := agentk.Config{
		ImpersonationServiceAccount: o.account,
		ImpersonationTokenFile:      o.accountTokenFile,
		Observability:               listen.Config{Network: o.network, Address: o.address, CertificateFile: o.certFile, KeyFile: o.keyFile},
		MaxStreams:                  o.maxStreams,
		GracePeriod:                 o.gracePeriod,
		Kas:                         agentk.Kas{Address: o.kasAddress, CAFile: o.caFile, InsecureSkipVerify: o.insecure, ServerName: o.serverName},
	}
	if err := o.check(); err != nil {
		return cfg, err
	}
	if o.oldCAFile != "" {
		cfg.Kas.CAFile = o.oldCAFile
	}
	var err error
	if cfg.Kas.Header, err = parseHeaders(o.headers); err != nil {
		return cfg, flagError("kas-header", err)
	}
	if cfg.Kas.Token, err = tokenSource(o.tokenFile, o.configToken, p, log); err != nil {
		return cfg, err
	}
	if cfg.GitOps, err = o.gitOps(p); err != nil {
		return cfg, err
	}
	if cfg.REST, err = o.kubernetes.load(); err != nil {
		return cfg, fmt.Errorf("access to the cluster: %w", err)
	}
	cfg.Pod = findPod(p, log)
	cfg.Pod.Telemetry = registraragent.Telemetry(p.Environ())
	return cfg, nil
}

// check finds what is wrong with single flags and with pairs of them.
func (o *options) check() error {
	switch {
	case o.kasAddress == "":
		return errors.New("--kas-address is required")
	case o.caFile != "" && o.oldCAFile != "":
		return errors.New("--ca-cert-file is the old name of --kas-ca-cert-file: give one of them")
	case (o.certFile == "") != (o.keyFile == ""):
		return errors.New("--observability-cert-file and --observability-key-file: give both or neither")
	case o.account != "" && o.accountTokenFile != "":
		return errors.New("--impersonation-service-account and --impersonation-token-file: give one of them")
	case o.maxStreams < 2:
		return fmt.Errorf("--tunnel-max-streams: must be at least 2, got %d", o.maxStreams)
	case o.gracePeriod < 0:
		return fmt.Errorf("--shutdown-grace-period: must not be negative, got %s", o.gracePeriod)
	}
	return nil
}

// parseHeaders reads "Name: value" texts. Its errors do not quote values, which may be secrets.
func parseHeaders(texts []string) (http.Header, error) {
	h := http.Header{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			return nil, errors.New("must be of the form \"Name: value\"")
		}
		name, value = textproto.TrimString(name), textproto.TrimString(value)
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, fmt.Errorf("%q is not the name of a header", name)
		}
		if !httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("the value of %s has characters that a header must not have", name)
		}
		h.Add(name, value)
	}
	return h, nil
}
