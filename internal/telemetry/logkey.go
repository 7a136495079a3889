package telemetry

// Keys of log fields. A field of a log line always has its name from here: users search and alert on them.
const (
	// ModName is the part of the daemon that speaks.
	ModName = "mod_name"
	// AgentID is the numeric id of an agent.
	AgentID = "agent_id"
	// AgentName is the name of an agent inside its project.
	AgentName = "agent_name"
	// AgentVersion is the version an agent announces.
	AgentVersion = "agent_version"
	// PodID tells the pods of one agent apart.
	PodID = "pod_id"
	// ProjectID is the full path of a project, not its number.
	ProjectID = "project_id"
	// CommitID and GitRef say what was read from a repository.
	CommitID = "commit_id"
	GitRef   = "git_ref"
	// TraceID ties the lines of one request together.
	TraceID = "trace_id"
	// GRPCService and GRPCMethod name the current RPC.
	GRPCService = "grpc_service"
	GRPCMethod  = "grpc_method"
	// NetAddress, NetNetwork and IsWebSocket describe a listener.
	NetAddress  = "net_address"
	NetNetwork  = "net_network"
	IsWebSocket = "is_websocket"
	// KasURL is the address of a kas.
	KasURL = "kas_url"
	// HTTP requests.
	Method     = "method"
	URL        = "url"
	URLPath    = "url_path"
	URLPrefix  = "url_path_prefix"
	StatusCode = "status_code"
	RequestID  = "request_id"
	RemoteAddr = "remote_address"
	UserAgent  = "user_agent"
	// Duration is how long something took, in milliseconds.
	Duration = "duration_in_ms"
	// PayloadSize is the size of a body.
	PayloadSize = "payload_size_in_bytes"
	// BytesIn and BytesOut are what a request carried towards and from the cluster.
	BytesIn  = "bytes_in"
	BytesOut = "bytes_out"
	// User is the identity a request has in the cluster; Verb what it does there.
	User = "user"
	Verb = "verb"
	// JobID, PipelineID and Username say who asked.
	JobID      = "job_id"
	PipelineID = "pipeline_id"
	Username   = "username"
	// Hop is where on the line a request failed.
	Hop = "hop"
	// RetryIn is the time until the next attempt.
	RetryIn = "retry_in"
	// Count is a number of things named by the message.
	Count = "count"
	// Path and Line are a place in a configuration file.
	Path = "path"
	Line = "line"
	// File is the name of a file.
	File = "file"
)
