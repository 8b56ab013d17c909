package service

import (
	"context"

	"antipode.example/platform/lifecycle"
	"antipode.example/platform/region"
)

// admission learns whether the region may serve, and whether others are fenced.
func (p *Process) admission() lifecycle.Component {
	return lifecycle.Component{
		Name: "admission",
		Start: func(context.Context) error {
			p.gate = region.NewGate(region.GateConfig{Store: region.NewStore(p.global), Region: p.cfg.Region, Admitted: p.cfg.Admitted, Log: p.log})
			return nil
		},
		Run: func(ctx context.Context) error { return p.gate.Run(ctx) },
	}
}

// mayAct reports whether the process may do anything of its own.
func (p *Process) mayAct() bool { return p.home.synced.Load() && p.gate.Err() == nil }

// acts reports whether this region does the background work of a region, by its number, for now.
func (p *Process) acts(origin uint16) bool { return p.gate.Err() == nil && p.takeover.Acts(origin) }

// mayWrite is why writes are refused, nil when they are not.
func (p *Process) mayWrite() error {
	if err := p.gate.Err(); err != nil {
		return err
	}
	return p.clockGuard.mayWrite()
}
