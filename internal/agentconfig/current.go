package agentconfig

// CurrentHeader is response metadata in which kas names the commit that an agent asked with when it is still the newest one. It
// tells an agent whose newer file was refused that the user went back to the one in use; nothing else on the wire would. Stock
// agents ignore it and stock servers do not send it.
const CurrentHeader = "agentk-config-current"
