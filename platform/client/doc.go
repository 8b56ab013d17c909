// Package client is how a program calls the API: by a name that geo-DNS answers with the addresses of regions, the nearest first.
//
// It owns the way of a request to a region that answers: names (names.go), connections to each address (place.go), and when another region is tried (race.go, single.go). What it guarantees:
//
//   - A request that may be done twice (GET, HEAD and OPTIONS, and a POST with an idempotency-key whose body can be sent again) is sent to the next region as well when there is no answer after Config.Delay; the first answer
//     is the one that counts, and what is under way elsewhere ends then. It goes on to the next region also after an answer by which this one sends it elsewhere, and when a connection breaks.
//   - Any other request is sent once. Only what is certain to have had no effect is tried elsewhere: a connection that could not be made, and an answer that says so (package fault: no_quorum, draining, fenced …).
//   - Connections to the next addresses are begun before the first one has failed, and the first that is made is used, so that a region that has gone silent costs no request more than Config.Delay.
//   - Requests that are sent again are at most a tenth of all, and a small reserve: clients add no storm to an outage.
//   - A region that has failed, or was silent, is asked last for some seconds.
//   - In steady use no request waits for DNS: an answer is renewed before its time is over. The last good one is used for as long as DNS is silent.
//   - What one user has seen is there in every region: the last antipode-token comes with the next request.
//
// Not here: deadlines (give every request one, by its context: a request that must not be done twice, on a connection into a region that has gone silent, waits for it), signing in, and trying again later.
// An idempotency-key with a method that does not heed it is the caller's mistake: docs/api.md says which do.
//
// A gRPC client connects in the same way, over TLS or in clear text, and has its own rules for what comes after that:
//
//	grpc.NewClient("passthrough:///api.antipode.test:8443", grpc.WithContextDialer(c.Connect), grpc.WithTransportCredentials(…),
//		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 2 * time.Second}),
//		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: time.Second}))
//
// Sources: the hedged request of "The Tail at Scale" (Dean, Barroso, CACM 56(2), 2013); RFC 8305 (Happy Eyeballs) for connections; the retry budget as in gRPC's retry throttling (gRFC A6); RFC 8767 for stale answers of DNS; the prefetching of resolvers (unbound.conf, prefetch).
package client
