package service

import (
	"context"

	"antipode.example/platform/auth"
	"antipode.example/platform/forget"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/takeover"
)

// forget deletes what the service keeps of users who were deleted. Where the configuration does not name the user service, nothing is heard, and nobody can be asked.
func (p *Process) forget() lifecycle.Component {
	var f *forget.Forgetter
	return lifecycle.Component{
		Name: "forget",
		Start: func(context.Context) (err error) {
			f, err = forget.New(forget.Config{
				Deleted: p.deleted, Acts: p.acts, Forget: p.definition.Forget, Exists: p.definition.Exists, Users: p.store.Users, May: p.mayAct,
				Leases: p.leases, Log: p.log, Meter: p.meter(),
			})
			return err
		},
		Run: func(ctx context.Context) error { f.Run(ctx); return ctx.Err() },
	}
}

// deleted are the users of whom the user service says so.
func (p *Process) deleted() []auth.Deletion {
	if p.ofUsers == nil {
		return nil
	}
	return p.ofUsers.Deleted()
}

// peers are the other regions, and for how long each was silent. One that is fenced does nothing, whether it is heard or not.
func (p *Process) peers() []takeover.Peer {
	var all []takeover.Peer
	for _, s := range p.replicator.Peers() {
		silent := s.SilentFor
		if p.gate.Fenced(s.Region) {
			silent = max(silent, takeover.After)
		}
		all = append(all, takeover.Peer{Number: s.Number, SilentFor: silent})
	}
	return all
}
