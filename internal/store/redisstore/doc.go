// Package redisstore is the store of package store in a Redis that all replicas of kas share: one server, a master that sentinels
// watch, or a cluster.
//
// It is made for a Redis that has bad days. New needs no Redis. Every call has a deadline, and a Redis that does not answer is asked by
// one prober only: all other calls fail at once until it does (call.go, health.go). What to do then is not decided here but in
// store.Fallback, which every kas puts in front.
//
// # What is in Redis
//
// P is redis.key_prefix; every key and every channel starts with it. Each key has a time to live, and no command or script touches more
// than one key, so that a cluster may spread them as it likes.
//
//	P:agents:<agent id>     hash    connection id: value(ConnectedAgentInfo)
//	P:project:<project id>  hash    agent id: value()     whose connections may be of this project
//	P:agents                hash    agent id: value()     who may have connections
//	P:seen:<agent id>       string  when it was last seen, Unix nanoseconds
//	P:tunnels:<agent id>    hash    location: value()
//	P:limit:<key>:<window>  string  number of admitted calls
//	P:refused:<key>         string  value(reason)         what GitLab has refused, and why
//	P:epoch                 string  random; another one means that Redis lost its data
//	P:tunnels               channel agent id              its locations have changed
//	P:events                channel event                 a push
//
// A value carries its own end (value.go), since a key lives as long as the last of its fields. Expired fields are skipped by readers
// and thrown out whenever a hash has doubled (hash.go), so that none grows beyond twice of what is alive. P:project and P:agents only
// point; the truth is in P:agents:<agent id>.
//
// # Rights
//
// A Redis user for kas needs: ~P:* &P:* +@read +@write +@pubsub +@scripting +@connection, and in a cluster +cluster.
package redisstore
