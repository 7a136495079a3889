// Package stock holds the tests against GitLab's own agents and servers of versions 15 to 18. The peers here are made of raw
// frames, without a gRPC library, so that every byte is what those versions send and what ours send them is looked at as bytes
// too. The files of testdata with 16.6 in their names come from a session of the real programs; the others were written by hand
// from what is known of the versions.
package stock
