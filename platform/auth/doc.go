// Package auth says who calls, whether that is still true, and what that caller may do.
//
// It owns access tokens (token.go) and the keys that sign them (keys.go, rotate.go), the sets of what has been revoked and their way between services (revoked.go, publish.go,
// follow.go), and the guard in front of every RPC, which reads from the API itself who may call what (table.go, guard.go).
//
// An access token is a JWT (RFC 7519) of at most five minutes, signed with EdDSA by the region that issued it, and verified in every region without asking anyone, also while the issuing
// region is dead. It carries the vectors under which its session was made, so a revocation is a write that a token covers or does not: a sign-in that did not know of the
// revocation, because it was concurrent with it, does not survive it, whatever the clocks said.
//
// Guaranteed: a token is accepted only if a key of the region that it names signed it, this process's clock is within its time, give or take Skew, and no revocation that has reached this
// process kills it. An RPC is served only to those whom its option antipode.auth.v1.access names; an RPC without that option keeps a server from starting.
//
// Not covered: a revocation takes the time that it needs to get here, and a process that has never heard from a source of revocations decides by signatures alone; at worst a
// token lives for its five minutes. Streams are judged when they open and not again. Tokens travel over links without TLS, which are not this package's.
package auth
