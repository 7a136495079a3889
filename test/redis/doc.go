// Package redis runs real Redis servers for tests: one server, a master with replicas watched by sentinels, or a cluster; with TLS,
// passwords, access rules, a unix socket or too little memory where asked. Servers can be stopped, killed, frozen and started again
// under the same address, which is what the replicas of kas have to survive.
//
// The kernel kills every server when the test process ends, however that happens, and nothing outside of Config.Dir is written.
package redis
