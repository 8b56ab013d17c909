package control

import (
	"time"

	"antipode.example/platform/region"
)

// Evaluation is what a controller knows of all regions, and what follows from it.
type Evaluation struct {
	// From is the controller's region.
	From string `json:"from"`
	// Revision is that of the global store up to which the controller has read it, and HeardMs how long ago it heard from it: much more than a second says that there is no majority, or none that it reaches.
	Revision int64 `json:"revision"`
	HeardMs  int64 `json:"heard_ms"`
	// Majority of all observers decides.
	Observers int `json:"observers"`
	Majority  int `json:"majority"`
	// Regions are in the order of the configuration.
	Regions []RegionEvaluation `json:"regions"`
}

// RegionEvaluation is what a controller knows of one region.
type RegionEvaluation struct {
	Record region.Record `json:"record"`
	// Verdict is the last thing that a majority agreed on: healthy, unhealthy, or unknown before it has. VerdictMs is its age.
	Verdict   string `json:"verdict"`
	VerdictMs int64  `json:"verdict_ms"`
	// DNS says whether name servers answer it to clients.
	DNS bool `json:"dns"`
	// Votes are those of all observers.
	Votes []Vote `json:"votes"`
	// Gates are those of a region that is CATCHING_UP, as its own controller has measured them.
	Gates []Gate `json:"gates,omitempty"`
	// Next is the state that follows now, and NextWhy the reason; Waits is, when none follows, what for. All are empty when only an operator can change something.
	Next    region.State `json:"next,omitempty"`
	NextWhy string       `json:"next_why,omitempty"`
	Waits   string       `json:"waits,omitempty"`
}

// Vote is what an observer says of a region.
type Vote struct {
	Observer string `json:"observer"`
	// Opinion is up, down, or none.
	Opinion string `json:"opinion"`
	// AgeMs is the age of the ballot on this controller's clock, -1 when there is none; one that is Stale does not count.
	AgeMs int64 `json:"age_ms"`
	Stale bool  `json:"stale"`
	// Since is when the opinion was formed, by the observer's clock.
	Since time.Time `json:"since,omitzero"`
	Why   string    `json:"why,omitempty"`
}

// Evaluate says what this controller knows, which may be old: see Evaluation.HeardMs.
func (c *Controller) Evaluate() Evaluation {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.view()
	e := Evaluation{
		From: c.self, Revision: c.world.Revision, HeardMs: (v.now - c.heardAt).Milliseconds(), Observers: len(c.tally.observers), Majority: c.tally.majority(),
	}
	dns := map[string]bool{}
	for _, name := range answered(v.snapshot()) {
		dns[name] = true
	}
	for _, name := range c.tally.observers {
		r := v.evaluate(name)
		r.DNS = dns[name]
		e.Regions = append(e.Regions, r)
	}
	return e
}

func (v *view) evaluate(name string) RegionEvaluation {
	r := RegionEvaluation{Record: v.world.Record(name), Verdict: "unknown"}
	if verdict := v.tally.verdicts[name]; verdict.known {
		r.Verdict, r.VerdictMs = "unhealthy", (v.now - verdict.since).Milliseconds()
		if verdict.healthy {
			r.Verdict = "healthy"
		}
	}
	for _, observer := range v.tally.observers {
		r.Votes = append(r.Votes, v.tally.vote(v.now, observer, name))
	}
	of := v
	if name != v.self {
		of = v.elsewhere(name)
	}
	if r.Record.State == region.CatchingUp {
		r.Gates = of.gates
	}
	s := of.follows(name)
	r.Waits = s.waits
	if s.why != "" {
		r.Next, r.NextWhy = s.to.State, s.why
	}
	return r
}

// elsewhere is the view of another region's controller, as far as this one knows it.
func (v *view) elsewhere(name string) *view {
	of := *v
	of.self, of.gates, of.answering, of.emptied = name, nil, false, false
	if v.tally.fresh(v.now, name) {
		of.gates = v.tally.heard[name].ballot.Gates
	}
	return &of
}

// vote is what an observer says of a region.
func (t *tally) vote(now time.Duration, observer, name string) Vote {
	v := Vote{Observer: observer, Opinion: noOpinion.String(), AgeMs: -1, Stale: !t.fresh(now, observer)}
	h := t.heard[observer]
	if h == nil {
		return v
	}
	v.AgeMs = (now - h.at).Milliseconds()
	if h.bad != nil {
		v.Why = "its ballot can not be read: " + h.bad.Error()
		return v
	}
	if o, ok := h.ballot.Opinions[name]; ok {
		v.Opinion, v.Since, v.Why = down.String(), o.Since, o.Why
		if o.Up {
			v.Opinion = up.String()
		}
	}
	return v
}
