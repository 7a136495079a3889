// Package tunnel is the reverse tunnel. An agent only dials out, so it parks streams of ReverseTunnel/Connect at kas, and kas
// sends a call down one: one call at a time has a stream, with HTTP/2's own flow control and nothing multiplexed by hand.
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
// That is what stock peers know. Between ours, kas offers in RequestInfo to park the stream again, and the agent accepts in its Trailer:
// then neither half-close nor status follow, and the next RequestInfo may. Only calls that have ended with OK, of which all of the request
// has arrived, end like that; after anything else the stream ends, and with it whatever of the call may still be under way.
//
// Pool is the agent's half: it keeps enough streams parked and runs the calls that arrive. Registry is the server's half: it
// knows the parked streams of every agent connected to this kas, and hands them out.
//
// Lock order: a shard's mutex is the only lock of the registry and nothing is called under it; a Tunnel is one call and has no lock, its
// fields belong to whom Find gave it.
package tunnel
