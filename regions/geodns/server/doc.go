// Package server is a region's name server: CoreDNS with the plugin geo, which sends each client to the regions that are healthy and admitted, the nearest first.
//
// It owns the answers of one zone (names.go, world.go), the news of the regions' state (follow.go, state.go), and the embedding of CoreDNS (coredns.go).
//
// It guarantees: an answer for a geo name is never empty; what was accepted last is answered for ever when there is no more news; only snapshots that are signed and not older than the last replace it; a region that its last
// snapshot calls FENCED answers SERVFAIL to everything in the zone, and so does one that has no snapshot, so that resolvers ask the next name server.
//
// It refuses to be a resolver, transfers, and everything outside of its zone. Not here: DNSSEC, DNS cookies, response rate limiting, a bound on TCP connections.
package server
