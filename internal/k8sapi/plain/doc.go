// Package plain sends requests without a body to one API server, on connections that it keeps, from the goroutine of the caller.
//
// It exists because such requests are most of what an agent does, and because net/http's Transport, which can do everything, spends
// about as much on each of them as all the rest of the agent: two goroutines per connection, to which a request and its answer are
// handed and from which they come back. It is needed where a body is still being sent while the answer comes. Without a body, writing
// comes strictly before reading, and the caller can do both itself.
//
// Parsing stays net/http's (http.ReadResponse), TLS crypto/tls's. What is left is small, and these are its rules:
//
//   - Takes says which requests may come here. Everything else belongs to a Transport, and so does all that goes to a server which is
//     not reached straight and by TLS: for that there is no Pool.
//   - A connection has one exchange at a time. It is kept if the answer was read to its end, neither side asked to close, nothing was
//     left over and the context did not end; otherwise it is closed.
//   - Nobody reads a kept connection. Before its next use it is looked at (see conn.quiet): if anything has come in, be it the server's
//     close or an answer to no question, it is closed and never used.
//   - A kept connection may still break under a request. Where http.Transport sends a request again, so does this package: nothing of
//     the answer has come, and the request may be repeated or has not been written.
//   - The end of the context closes the connection at once, whatever is being waited for.
package plain
