// Package tunnel is the reverse tunnel. An agent only dials out, so it parks streams of ReverseTunnel/Connect at kas, and kas
// sends one call down each: one stream, one call, with HTTP/2's own flow control and nothing multiplexed by hand.
//
//	agent -> kas                    kas -> agent
//	Descriptor                      (silence while parked; EOF with OK: retire)
//	                                RequestInfo(method, metadata)
//	                                Message*, CloseSend
//	Header, Message*
//	Trailer, [Error]
//	half-close
//	                                status OK
//
// Pool is the agent's half: it keeps enough streams parked and runs the calls that arrive. Registry is the server's half: it
// knows the parked streams of every agent connected to this kas, and hands them out.
//
// Lock order: a shard's mutex is the only lock of the registry and nothing is called under it; a Tunnel has no lock, its fields
// belong to whoever holds it (the registry while parked, the caller after Find).
package tunnel
