package lab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
)

const (
	slots         = 4096
	digestTimeout = 30 * time.Second
)

// DigestReport compares what the regions hold, slot by slot.
type DigestReport struct {
	Regions []RegionDigest `json:"regions"`
	// Equal says that all regions answered and hold the same.
	Equal bool `json:"equal"`
	// Behind are slots in which some region lacks something; Diverged those in which all have seen the same writes and yet
	// differ, which is a bug.
	Behind   []uint32 `json:"behind,omitempty"`
	Diverged []uint32 `json:"diverged,omitempty"`
}

// RegionDigest is all of one region in two hashes (see SyncService.Digest).
type RegionDigest struct {
	Region  string `json:"region"`
	Users   uint64 `json:"users"`
	Vectors string `json:"vectors,omitempty"`
	States  string `json:"states,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Digest asks every region for the digests of all slots. A region that doesn't answer is named in the report.
func (l *Lab) Digest(ctx context.Context) (DigestReport, error) {
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	report := DigestReport{Regions: make([]RegionDigest, len(l.regions)), Equal: true}
	digests := make([]map[uint32]*replicationv1.SlotDigest, len(l.regions))
	var asking sync.WaitGroup
	for i, r := range l.regions {
		asking.Go(func() { report.Regions[i], digests[i] = r.digest(ctx) })
	}
	asking.Wait()
	for _, d := range report.Regions {
		report.Equal = report.Equal && d.Error == ""
	}
	for slot := range uint32(slots) {
		behind, diverged := compare(slot, digests)
		if behind {
			report.Behind = append(report.Behind, slot)
		}
		if diverged {
			report.Diverged = append(report.Diverged, slot)
		}
	}
	report.Equal = report.Equal && len(report.Behind) == 0 && len(report.Diverged) == 0
	return report, nil
}

// compare says of one slot whether any region that answered lacks something, and whether two with equal vectors differ.
func compare(slot uint32, digests []map[uint32]*replicationv1.SlotDigest) (behind, diverged bool) {
	states := map[string]string{} // by vectors
	for _, d := range digests {
		if d == nil {
			continue
		}
		vectors, state := string(d[slot].GetVectors()), string(d[slot].GetStates())
		if other, seen := states[vectors]; seen && other != state {
			diverged = true
		}
		states[vectors] = state
	}
	return len(states) > 1, diverged
}

func (r *Region) digest(ctx context.Context) (RegionDigest, map[uint32]*replicationv1.SlotDigest) {
	d := RegionDigest{Region: r.Topology.Name}
	var answer *replicationv1.DigestResponse
	err := r.AnySync(ctx, "user", func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		answer, err = c.Digest(ctx, &replicationv1.DigestRequest{FirstSlot: 0, Slots: slots})
		return err
	})
	if err != nil {
		d.Error = err.Error()
		return d, nil
	}
	bySlot := make(map[uint32]*replicationv1.SlotDigest, len(answer.GetSlots()))
	vectors, states := sha256.New(), sha256.New()
	for _, s := range answer.GetSlots() {
		bySlot[s.GetSlot()] = s
		d.Users += s.GetUsers()
		number := binary.BigEndian.AppendUint32(nil, s.GetSlot())
		vectors.Write(append(number, s.GetVectors()...))
		states.Write(append(number, s.GetStates()...))
	}
	d.Vectors, d.States = hex.EncodeToString(vectors.Sum(nil)), hex.EncodeToString(states.Sum(nil))
	return d, bySlot
}

// ConflictReport lists the conflicts that the regions have seen.
type ConflictReport struct {
	Conflicts []Conflict `json:"conflicts"`
	// Silent are regions that didn't answer: the list may lack what only they know.
	Silent []string `json:"silent,omitempty"`
}

// Conflict is a write that lost against a concurrent one.
type Conflict struct {
	Name    string          `json:"name"`
	UserID  string          `json:"user_id"`
	Field   string          `json:"field"`
	Lost    string          `json:"lost"`
	Won     string          `json:"won"`
	Regions []string        `json:"regions"` // that have listed it
	Entry   json.RawMessage `json:"entry"`   // the whole entry, as the API writes it
}

const conflictPage = 1000

// Conflicts asks every region and lists each conflict once.
func (l *Lab) Conflicts(ctx context.Context) (ConflictReport, error) {
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	answers := make([][]*replicationv1.ConflictEntry, len(l.regions))
	errs := make([]error, len(l.regions))
	var asking sync.WaitGroup
	for i, r := range l.regions {
		asking.Go(func() { answers[i], errs[i] = r.conflicts(ctx) })
	}
	asking.Wait()
	report := ConflictReport{Conflicts: []Conflict{}}
	index := map[string]int{}
	for i, r := range l.regions {
		if errs[i] != nil {
			report.Silent = append(report.Silent, r.Topology.Name)
		}
		for _, e := range answers[i] {
			at, seen := index[e.GetName()]
			if !seen {
				c, err := newConflict(e)
				if err != nil {
					return report, err
				}
				at = len(report.Conflicts)
				index[c.Name] = at
				report.Conflicts = append(report.Conflicts, c)
			}
			report.Conflicts[at].Regions = append(report.Conflicts[at].Regions, r.Topology.Name)
		}
	}
	if len(report.Silent) == len(l.regions) {
		return report, fmt.Errorf("no region answers: %w", errors.Join(errs...))
	}
	return report, nil
}

func newConflict(e *replicationv1.ConflictEntry) (Conflict, error) {
	text, err := protojson.Marshal(e)
	if err != nil {
		return Conflict{}, fmt.Errorf("writing conflict %s: %w", e.GetName(), err)
	}
	return Conflict{
		Name: e.GetName(), UserID: userText(e.GetUserId()), Field: e.GetField(), Lost: e.GetLostJson(), Won: e.GetWonJson(), Entry: text,
	}, nil
}

func userText(id []byte) string {
	u, err := uuid.FromBytes(id)
	if err != nil {
		return hex.EncodeToString(id)
	}
	return u.String()
}

func (r *Region) conflicts(ctx context.Context) ([]*replicationv1.ConflictEntry, error) {
	var all []*replicationv1.ConflictEntry
	err := r.AnySync(ctx, "user", func(ctx context.Context, c replicationv1.SyncServiceClient) error {
		all = nil
		for token := ""; ; {
			page, err := c.Conflicts(ctx, &replicationv1.ConflictsRequest{PageToken: token, PageSize: conflictPage})
			if err != nil {
				return err
			}
			all = append(all, page.GetEntries()...)
			if token = page.GetNextPageToken(); token == "" {
				return nil
			}
		}
	})
	return all, err
}

// Restored says what a reversal wrote.
type Restored struct {
	Conflict
	// In is the region that wrote the losing value again.
	In string `json:"in"`
}

// RestoreConflict writes the losing value of a conflict again, in the named region, or, for an empty name, in the first that has
// listed it. The name may be a beginning that only one conflict has.
func (l *Lab) RestoreConflict(ctx context.Context, name, region string) (Restored, error) {
	report, err := l.Conflicts(ctx)
	if err != nil {
		return Restored{}, err
	}
	found, err := report.Find(name)
	if err != nil {
		return Restored{}, err
	}
	if region == "" {
		region = found.Regions[0]
	}
	r, err := l.Region(region)
	if err != nil {
		return Restored{}, err
	}
	user, err := uuid.Parse(found.UserID)
	if err != nil {
		return Restored{}, fmt.Errorf("user of conflict %s: %w", found.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	err = r.AnySync(ctx, "user", func(ctx context.Context, c replicationv1.SyncServiceClient) error {
		_, err := c.RestoreConflict(ctx, &replicationv1.RestoreConflictRequest{UserId: user[:], Name: found.Name})
		return err
	})
	if err != nil {
		return Restored{}, fmt.Errorf("restoring conflict %s: %w", found.Name, err)
	}
	return Restored{Conflict: found, In: region}, nil
}

// Find returns the conflict whose name is or begins with name.
func (r ConflictReport) Find(name string) (Conflict, error) {
	var found []Conflict
	for _, c := range r.Conflicts {
		if c.Name == name {
			return c, nil
		}
		if name != "" && strings.HasPrefix(c.Name, name) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return Conflict{}, fmt.Errorf("there is no conflict %q: regionctl conflicts list", name)
	case 1:
		return found[0], nil
	}
	return Conflict{}, fmt.Errorf("%d conflicts have names that begin with %q: give more of it", len(found), name)
}

// Reconciled is the outcome of one region's comparison with another.
type Reconciled struct {
	Region string `json:"region"`
	From   string `json:"from"`
	// Slots compared, and those that differed; users fetched.
	Slots          uint32 `json:"slots"`
	SlotsDiffering uint32 `json:"slots_differing"`
	UsersFetched   uint64 `json:"users_fetched"`
	// Diverged users have seen the same writes and differ: each is a bug.
	Diverged []string `json:"diverged,omitempty"`
	Error    string   `json:"error,omitempty"`
}

const reconcileTimeout = 10 * time.Minute

// Reconcile makes a region compare itself with another and fetch what it lacks; an empty name stands for all. Pairs that fail
// are named in the result.
func (l *Lab) Reconcile(ctx context.Context, region, from string) ([]Reconciled, error) {
	for _, name := range []string{region, from} {
		if name == "" {
			continue
		}
		if _, err := l.Region(name); err != nil {
			return nil, err
		}
	}
	if region != "" && region == from {
		return nil, fmt.Errorf("region %s can't fetch from itself", region)
	}
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	var done []Reconciled
	for _, r := range l.regions {
		if region != "" && r.Topology.Name != region {
			continue
		}
		for _, other := range l.regions {
			if other == r || from != "" && other.Topology.Name != from {
				continue
			}
			done = append(done, r.reconcile(ctx, other.Topology.Name))
		}
	}
	return slices.Clip(done), nil
}

func (r *Region) reconcile(ctx context.Context, from string) Reconciled {
	result := Reconciled{Region: r.Topology.Name, From: from}
	var answer *replicationv1.ReconcileResponse
	err := r.AnySync(ctx, "user", func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		answer, err = c.Reconcile(ctx, &replicationv1.ReconcileRequest{Region: from})
		return err
	})
	if err != nil {
		result.Error = err.Error()
		return result
	}
	result.Slots, result.SlotsDiffering, result.UsersFetched = answer.GetSlots(), answer.GetSlotsDiffering(), answer.GetUsersFetched()
	for _, id := range answer.GetDiverged() {
		result.Diverged = append(result.Diverged, userText(id))
	}
	return result
}
