// Package gateway serves REST and gRPC on one port.
//
// One http.Server speaks HTTP/1.1 and HTTP/2 without TLS (h2c). A request whose content type is application/grpc goes to the rpc.Server as it
// is; every other one is routed by grpc-gateway, decoded from JSON, and goes over rpc.Server.Conn to the same implementation through the
// same interceptors. Everything that must hold for both is in package rpc; here is only what JSON and HTTP add: limits on bodies, strictness, and
// errors as problem documents.
//
// Guarantees: every error, also one of routing, is application/problem+json (RFC 9457) with the member `reason`, except the few that
// net/http itself gives before there is a request (431, and 400 for what is not HTTP). A body is read only once the route is known, up to
// the limit and within a bound of time.
//
// Refused with a reason: bodies above the limit (413), media types other than JSON (415), unknown methods (405 with Allow), JSON with unknown or duplicate
// fields or values of the wrong type, query parameters that the method does not have, headers that cannot be carried. Violations name fields as
// the .proto file does and from the request message on ("user.phone_numbers[1]"), whichever way the request came; a name that
// is not known stands as the caller wrote it.
//
// Content that is no message, of any size, is served by handlers of plain HTTP (Plain), which ask RPCs in the same way for what they may do.
//
// Not covered: streaming methods over REST; TLS, which belongs to the load balancer; compressed request bodies (415).
package gateway
