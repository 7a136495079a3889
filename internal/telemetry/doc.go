// Package telemetry is what an operator sees of a daemon: its log, its metrics, and the HTTP server with metrics, probes and
// profiles. Both daemons use it, so that the same key or path means the same on both ends of the line.
package telemetry
