// Package resource is what the APIs of all services have in common: ids and update masks in requests, page tokens, and what travels beside a message, between an rpc.Call and
// package copies.
//
// It knows what a request may say and what an answer has to tell; which records there are, and how they look to callers, is the service's business.
package resource

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

// Invalid is the fault of a request; With says what is wrong.
func Invalid() *fault.Error { return fault.New(fault.Invalid, "the request is not valid") }

const notAnID = "%q is not the id of %s (a UUID of 36 characters that this API has made)"

// ParseID reads an id; else there is a fault about the field. A is what it is the id of: "a user".
func ParseID(text, field, a string) (id.ID, error) {
	u, err := id.Parse(text)
	if err != nil {
		return id.ID{}, Invalid().With(field, notAnID, text, a).Because(err)
	}
	return u, nil
}

// ParseIDs reads a repeated field of ids; the fault is about all that are none.
func ParseIDs(texts []string, field, a string) ([]id.ID, error) {
	ids := make([]id.ID, len(texts))
	bad := Invalid()
	for i, text := range texts {
		u, err := id.Parse(text)
		if err != nil {
			bad = bad.With(fmt.Sprintf("%s[%d]", field, i), notAnID, text, a)
		}
		ids[i] = u
	}
	if len(bad.Violations) > 0 {
		return nil, bad
	}
	return ids, nil
}

// SeenBy tells what a call's token covers of the users of a service.
func SeenBy(call *rpc.Call, service string) copies.SeenFunc {
	return func(u id.ID) copies.Seen {
		return copies.Seen{
			Vector: call.Token.Vector(service, u), HLC: call.Token.HLC, StaleOK: call.Read == rpc.ReadStaleOK,
			Lost: func(seen, here causal.Vector) { call.Lose(service, u, seen, here) },
		}
	}
}

// Remote reports whether a call asks for its write to be in another region.
func Remote(call *rpc.Call) bool { return call.Durability == rpc.DurabilityRemote }

// Tell notes what an answer shows, or denies: every copy that it is made from.
func Tell[M proto.Message](call *rpc.Call, service string, c copies.Copy[M]) {
	if len(c.Vector) > 0 {
		call.Observe(service, c.User, c.Vector, c.Stamp)
	}
	if c.Stale {
		call.SetStale()
	}
}

// Written notes what a write left, and how far it has come.
func Written[M proto.Message](call *rpc.Call, service string, r copies.Result[M]) {
	Tell(call, service, r.Copy)
	reached := rpc.DurabilityLocal
	if r.Remote {
		reached = rpc.DurabilityRemote
	}
	call.SetDurability(reached)
	if r.Unmet {
		call.SetCausalUnmet()
	}
}
