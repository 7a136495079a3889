// Package swarm is thousands of agents in one process: each with a token and a connection of its own, made of the parts that agentk is
// made of, but in front of no cluster. Every request gets the same answer at once. With it goes a kas (Kas) that knows them all, and
// the storm (Storm): that kas is killed and comes back, and all of them with it.
//
// An agent costs a descriptor and about 600 KiB here, and as much as any other at kas.
package swarm
