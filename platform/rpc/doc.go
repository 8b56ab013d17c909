// Package rpc serves and calls gRPC, and is the one place for all that holds for every request, however it came in.
//
// A Server has one ordered chain of interceptors (chain.go says why each stands where it stands). gRPC requests come to it over the wire;
// REST requests come to it through Server.Conn, a connection inside the process: Invoke looks the method up, runs the same chain and calls
// the implementation, with no socket, no encoding and no second goroutine. So the gateway uses the generated client handlers
// (Register…HandlerClient), and there is no second, REST-only copy of tokens, deadlines, validation, faults or metrics that could differ.
// The price against the generated HandlerServer is one shallow copy of the answer.
//
// Guarantees: a handler gets a Call (FromContext) whose fields have been checked, a context with a deadline, and a message that satisfies its
// protovalidate rules. What it returns goes out as a fault (package fault), and a panic as `internal` without detail. Every answer of a
// server with a sealer, also most errors, carries a causal token that covers what the request's token covered and what the handler observed: over gRPC in the header of an answer and in the trailer of
// an error, over REST always in the header.
//
// With an Access, a call is let through before its message is looked at, or not at all; and a service of which it is not said who may call it cannot be registered.
//
// Refused: messages above the limit, headers that are not valid (`invalid`, the header named as the field), forged tokens. Violations name
// fields as the .proto file does ("user.phone_numbers[1]"), over REST too.
//
// Not covered: streaming methods get access, panics and faults handled, and no Call, deadline or validation; Conn has no streams at all.
package rpc
