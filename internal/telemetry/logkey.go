package telemetry

// Keys of log fields that several rooms write. Users search and alert on them.
const (
	// ModName is the part of the daemon that speaks.
	ModName = "mod_name"
	// AgentID is the numeric id of an agent.
	AgentID = "agent_id"
	// ProjectID is the full path of a project, not its number.
	ProjectID = "project_id"
	// NetAddress, NetNetwork and IsWebSocket describe a listener.
	NetAddress  = "net_address"
	NetNetwork  = "net_network"
	IsWebSocket = "is_websocket"
	// URLPrefix is what paths of the Kubernetes API proxy start with.
	URLPrefix = "url_path_prefix"
	// RetryIn is the time until the next attempt.
	RetryIn = "retry_in"
)
