// Package control lets other processes see and steer a running lab: the daemon that holds the lab serves it, and Client calls it.
//
// It speaks JSON over HTTP on a Unix socket (lab.SocketPath) that only the user who started the lab can open. Calls that take
// a while answer with a stream of lines: events as they happen, then one last line with the result or the error. Whoever may
// open the socket may do everything; there are no finer rights.
package control

import (
	"encoding/json"
	"errors"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

// Phases of a lab, as State.Phase and lab.Status.State have them.
const (
	Starting = "starting"
	Up       = "up"
	Stopping = "stopping"
)

// ErrNotRunning says that no process serves the lab.
var ErrNotRunning = errors.New("the lab is not running")

// State is what the daemon does, told at once.
type State struct {
	Lab      string    `json:"lab"`
	Phase    string    `json:"phase"`
	PID      int       `json:"pid"`
	Since    time.Time `json:"since"`
	Topology string    `json:"topology"`
	Dir      string    `json:"dir"`
	// Components are full names, such as us-east/kafka.
	Components []string `json:"components"`
	Services   []string `json:"services"`
}

// line is one line of a streamed answer.
type line struct {
	Event *lab.Event `json:"event,omitempty"`
	// Done marks the last line; Error is empty when all went well.
	Done   bool            `json:"done,omitempty"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// ActRequest asks for an action on components.
type ActRequest struct {
	Action     lab.Action `json:"action"`
	Components []string   `json:"components"`
	// Wait is how long to wait until started, crashed and resumed components are ready; 0 means not at all.
	Wait time.Duration `json:"wait_ns"`
}

// PowerRequest switches the power of a region.
type PowerRequest struct {
	Region string `json:"region"`
	On     bool   `json:"on"`
}

// LinkRequest changes links. What is nil stays as it is.
type LinkRequest struct {
	// Op is set, cut, heal or reset.
	Op string `json:"op"`
	// Pairs are the directions, by name of place.
	Pairs  []wan.Pair     `json:"pairs"`
	Delay  *time.Duration `json:"delay_ns,omitempty"`
	Jitter *time.Duration `json:"jitter_ns,omitempty"`
	Loss   *float64       `json:"loss,omitempty"`
	Rate   *topology.Rate `json:"rate,omitempty"`
}

// Change returns p with what the request sets.
func (r LinkRequest) Change(p wan.Params) wan.Params {
	if r.Delay != nil {
		p.Delay = *r.Delay
	}
	if r.Jitter != nil {
		p.Jitter = *r.Jitter
	}
	if r.Loss != nil {
		p.Loss = *r.Loss
	}
	if r.Rate != nil {
		p.Rate = *r.Rate
	}
	return p
}

// FaultRequest injects or heals a fault.
type FaultRequest struct {
	// Words name the fault, as lab.Lab.Fault takes them.
	Words []string `json:"words"`
	// All heals every active fault, with no words.
	All bool `json:"all,omitempty"`
}

// FaultDone says what a FaultRequest did.
type FaultDone struct {
	// Faults are their names in full; of a request to heal, those that were active.
	Faults  []string `json:"faults"`
	Seconds float64  `json:"seconds"`
}

// RestoreRequest reverses a conflict by a new write in a region; an empty region means the first that answers, an empty service any.
type RestoreRequest struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	Region  string `json:"region"`
}

// LetterRequest replays or drops a dead letter; an empty region means all that have it open, an empty service any.
type LetterRequest struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	Region  string `json:"region"`
}

// SyncRequest makes regions fetch from others what they lack; an empty name means all.
type SyncRequest struct {
	Service string `json:"service"`
	Region  string `json:"region"`
	From    string `json:"from"`
}
