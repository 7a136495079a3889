// Package chaos breaks a whole fleet, kas, agentk and Redis as real processes, in every way on the list, and holds it to what it promises:
// no answer is ever wrong, what can go on goes on, what cannot ends with a reason, and afterwards everybody holds what they held before:
// goroutines, sockets, keys in Redis.
//
// Tests of a few seconds are part of "make test". The others, with the build tag chaos, take up to twenty minutes: "make chaos". With
// SOAK=1 the fleet is kept under churn for half an hour more, and its heap is watched, which has to be where it was in the middle of it.
package chaos
