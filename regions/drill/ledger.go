package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Outcome is what a client knows of a write.
type Outcome string

// The outcomes.
const (
	Acked   Outcome = "acked"
	Refused Outcome = "refused" // it had no effect
	Unknown Outcome = "unknown"
)

// Kind is what a write does.
type Kind string

// The kinds.
const (
	Create Kind = "create"
	Update Kind = "update"
)

// Write is one write as its client saw it. Times are since the ledger began, by one monotonic clock.
type Write struct {
	Seq    int    `json:"seq"`
	Region string `json:"region"`
	Kind   Kind   `json:"kind"`
	// User is the id; of a create whose outcome is not known it is empty, and Email finds it.
	User  string `json:"user,omitempty"`
	Email string `json:"email,omitempty"`
	// Field and Value are what an update sets, Field by its JSON name. A create sets Value as firstName.
	Field string `json:"field,omitempty"`
	Value string `json:"value"`
	// Asked and Got are the durability that was asked for and reached, "local" or "remote".
	Asked   string  `json:"asked"`
	Got     string  `json:"got,omitempty"`
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	// RequestID names the request in the logs of the region.
	RequestID string `json:"request_id,omitempty"`
	// Denied says that the region did not let the caller write, who may.
	Denied bool          `json:"denied,omitempty"`
	Token  string        `json:"token,omitempty"`
	Sent   time.Duration `json:"sent_ns"`
	Done   time.Duration `json:"done_ns"`
}

// Ledger keeps writes in the order in which their outcomes became known. It is safe for concurrent use.
type Ledger struct {
	began time.Time
	out   *json.Encoder // nil: memory only

	mu     sync.Mutex
	writes []Write
	err    error
}

// NewLedger makes an empty ledger that also writes each entry to out, as a line of JSON, unless out is nil.
func NewLedger(out io.Writer) *Ledger {
	l := &Ledger{began: time.Now()}
	if out != nil {
		l.out = json.NewEncoder(out)
	}
	return l
}

// ReadLedger reads what a ledger has written.
func ReadLedger(in io.Reader) (*Ledger, error) {
	l := NewLedger(nil)
	for dec := json.NewDecoder(in); ; {
		var w Write
		err := dec.Decode(&w)
		if errors.Is(err, io.EOF) {
			return l, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read entry %d of the ledger: %w", len(l.writes)+1, err)
		}
		l.writes = append(l.writes, w)
	}
}

// Now is the time on the clock of the entries.
func (l *Ledger) Now() time.Duration { return time.Since(l.began) }

func (l *Ledger) add(w Write) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Seq = len(l.writes) + 1
	l.writes = append(l.writes, w)
	if l.out != nil && l.err == nil {
		l.err = l.out.Encode(w)
	}
}

// Writes are all entries so far, and the first error of writing them out.
func (l *Ledger) Writes() ([]Write, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Write(nil), l.writes...), l.err
}

// Counts counts the entries of one region, or of all if it is empty, by outcome.
func (l *Ledger) Counts(region string) map[Outcome]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	counts := make(map[Outcome]int)
	for _, w := range l.writes {
		if region == "" || w.Region == region {
			counts[w.Outcome]++
		}
	}
	return counts
}
