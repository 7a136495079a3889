package gitlab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"gitlab.com/agentk/agentk/api/agenttracker"
	trackerrpc "gitlab.com/agentk/agentk/api/agenttracker/rpc"
	"gitlab.com/agentk/agentk/api/configurationproject"
	"gitlab.com/agentk/agentk/api/entity"
	"gitlab.com/agentk/agentk/api/event"
	"gitlab.com/agentk/agentk/api/notifications"
	"gitlab.com/agentk/agentk/api/serverinfo"
	serverinforpc "gitlab.com/agentk/agentk/api/serverinfo/rpc"
)

// KasSettings say where kas is, in the words of gitlab.yml.
type KasSettings struct {
	// InternalURL is that of its API for Rails: grpc://, grpcs:// or unix:.
	InternalURL string
	// ExternalURL is where agents connect: ws://, wss://, grpc:// or grpcs://.
	ExternalURL string
	// ExternalK8sProxyURL is where users and jobs reach clusters; default: derived from ExternalURL.
	ExternalK8sProxyURL string
	// CA signs kas' certificate, for grpcs.
	CA *x509.CertPool
	// Features are flags that are passed along with each call.
	Features map[string]bool
}

// proxyURL is the address in kubeconfigs.
func (k KasSettings) proxyURL() string {
	if k.ExternalK8sProxyURL != "" {
		return k.ExternalK8sProxyURL
	}
	u, err := url.Parse(k.ExternalURL)
	if err != nil {
		return ""
	}
	scheme := "http"
	if u.Scheme == "wss" || u.Scheme == "grpcs" {
		scheme = "https"
	}
	return scheme + "://" + u.Host + strings.TrimSuffix(u.Path, "/") + "/k8s-proxy"
}

// kasChannel is the connection to kas.
type kasChannel struct {
	// mu guards both below.
	mu   sync.Mutex
	url  string
	conn *grpc.ClientConn
}

func (c *kasChannel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn, c.url = nil, ""
	}
}

// to returns the connection to where kas is now.
func (c *kasChannel) to(settings KasSettings) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.url == settings.InternalURL {
		return c.conn, nil
	}
	u, err := url.Parse(settings.InternalURL)
	if err != nil {
		return nil, fmt.Errorf("internal URL of kas: %w", err)
	}
	target, security := u.Host, insecure.NewCredentials()
	switch u.Scheme {
	case "grpc":
	case "grpcs":
		security = credentials.NewTLS(&tls.Config{RootCAs: settings.CA, MinVersion: tls.VersionTLS12})
	case "unix":
		target = settings.InternalURL
	default:
		return nil, errors.New("internal URL of kas: neither grpc, grpcs nor unix")
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(security))
	if err != nil {
		return nil, err
	}
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.conn, c.url = conn, settings.InternalURL
	return conn, nil
}

// Kas calls kas as Rails does.
type Kas struct {
	gitlab *GitLab
	// spoil changes what the token says.
	spoil func(jwt.MapClaims) jwt.SigningMethod
}

// Kas is how Rails reaches kas.
func (g *GitLab) Kas() *Kas { return &Kas{gitlab: g} }

// Spoiled is how somebody reaches kas whose token has other claims, or another algorithm.
func (k *Kas) Spoiled(spoil func(jwt.MapClaims) jwt.SigningMethod) *Kas {
	return &Kas{gitlab: k.gitlab, spoil: spoil}
}

// prepare returns the connection, and the context of a call.
func (k *Kas) prepare(ctx context.Context) (context.Context, *grpc.ClientConn, error) {
	settings := k.gitlab.current().Kas
	conn, err := k.gitlab.kas.to(settings)
	if err != nil {
		return nil, nil, err
	}
	token, err := k.gitlab.kasToken(k.spoil)
	if err != nil {
		return nil, nil, err
	}
	md := metadata.Pairs("authorization", "bearer "+token)
	for name, on := range settings.Features {
		md.Set("kas-feature-"+name, fmt.Sprint(on))
	}
	return metadata.NewOutgoingContext(ctx, md), conn, nil
}

// GitPush tells kas of a push.
func (k *Kas) GitPush(ctx context.Context, project string) error {
	p, err := k.gitlab.projectOf(project)
	if err != nil {
		return err
	}
	ctx, conn, err := k.prepare(ctx)
	if err != nil {
		return err
	}
	_, err = notifications.NewNotificationsClient(conn).GitPushEvent(ctx, &notifications.GitPushEventRequest{
		Event: &event.GitPushEvent{Project: &event.Project{Id: p.ID, FullPath: p.Path}},
	})
	return err
}

// ConnectedAgents asks which pods of an agent are connected, by the method that Rails of this version calls.
func (k *Kas) ConnectedAgents(ctx context.Context, agentID int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	ctx, conn, err := k.prepare(ctx)
	if err != nil {
		return nil, err
	}
	client, version := trackerrpc.NewAgentTrackerClient(conn), k.gitlab.release
	switch {
	case version.atLeast(18, 6):
		r, err := client.GetConnectedAgentksByAgentIDs(ctx, &trackerrpc.GetConnectedAgentksByAgentIDsRequest{AgentIds: []int64{agentID}})
		return r.GetAgents(), err
	case version.atLeast(16, 8):
		r, err := client.GetConnectedAgentsByAgentIDs(ctx, &trackerrpc.GetConnectedAgentsByAgentIDsRequest{AgentIds: []int64{agentID}})
		return r.GetAgents(), err
	}
	r, err := client.GetConnectedAgents(ctx, &trackerrpc.GetConnectedAgentsRequest{
		Request: &trackerrpc.GetConnectedAgentsRequest_AgentId{AgentId: agentID},
	})
	return r.GetAgents(), err
}

// ConnectedAgentsOfProject asks which pods of all agents of a project are connected.
func (k *Kas) ConnectedAgentsOfProject(ctx context.Context, projectID int64) ([]*agenttracker.ConnectedAgentInfo, error) {
	ctx, conn, err := k.prepare(ctx)
	if err != nil {
		return nil, err
	}
	client, version := trackerrpc.NewAgentTrackerClient(conn), k.gitlab.release
	switch {
	case version.atLeast(18, 6):
		r, err := client.GetConnectedAgentksByProjectIDs(ctx, &trackerrpc.GetConnectedAgentksByProjectIDsRequest{ProjectIds: []int64{projectID}})
		return r.GetAgents(), err
	case version.atLeast(16, 8):
		r, err := client.GetConnectedAgentsByProjectIDs(ctx, &trackerrpc.GetConnectedAgentsByProjectIDsRequest{ProjectIds: []int64{projectID}})
		return r.GetAgents(), err
	}
	r, err := client.GetConnectedAgents(ctx, &trackerrpc.GetConnectedAgentsRequest{
		Request: &trackerrpc.GetConnectedAgentsRequest_ProjectId{ProjectId: projectID},
	})
	return r.GetAgents(), err
}

// AgentConfigFiles asks which agents have a configuration file in a project.
func (k *Kas) AgentConfigFiles(ctx context.Context, project string) ([]*configurationproject.AgentConfigFile, error) {
	p, err := k.gitlab.projectOf(project)
	if err != nil {
		return nil, err
	}
	ctx, conn, err := k.prepare(ctx)
	if err != nil {
		return nil, err
	}
	info, repository := k.gitlab.gitalyInfo(), p.gitalyRepository()
	response, err := configurationproject.NewConfigurationProjectClient(conn).ListAgentConfigFiles(ctx, &configurationproject.ListAgentConfigFilesRequest{
		Repository: &entity.GitalyRepository{
			StorageName: repository.StorageName, RelativePath: repository.RelativePath,
			GlRepository: repository.GlRepository, GlProjectPath: repository.GlProjectPath,
		},
		GitalyInfo: &entity.GitalyInfo{Address: info.Address, Token: info.Token, Features: info.Features},
	})
	return response.GetConfigFiles(), err
}

// ServerInfo asks kas for its version.
func (k *Kas) ServerInfo(ctx context.Context) (*serverinfo.ServerInfo, error) {
	ctx, conn, err := k.prepare(ctx)
	if err != nil {
		return nil, err
	}
	response, err := serverinforpc.NewServerInfoClient(conn).GetServerInfo(ctx, &serverinforpc.GetServerInfoRequest{})
	return response.GetCurrentServerInfo(), err
}
