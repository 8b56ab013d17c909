package lab

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/digest"
)

const (
	digestTimeout = 30 * time.Second
	// digestPatience is for how long regions that lack writes are looked at again, and digestPause the time between.
	digestPatience, digestPause = 5 * time.Second, 300 * time.Millisecond
)

// DigestReport compares what the regions hold, service by service.
type DigestReport struct {
	Services []ServiceDigest `json:"services"`
	// Equal says that all services are.
	Equal bool `json:"equal"`
}

// ServiceDigest compares what the regions hold of a service, slot by slot.
type ServiceDigest struct {
	Service string         `json:"service"`
	Regions []RegionDigest `json:"regions"`
	// Equal says that all regions answered and hold the same.
	Equal bool `json:"equal"`
	// Behind are slots in which some region lacks something; Diverged those in which all have seen the same writes and yet
	// differ, which is a bug.
	Behind   []uint32 `json:"behind,omitempty"`
	Diverged []uint32 `json:"diverged,omitempty"`
}

// RegionDigest is all that one region holds of a service in two hashes (see SyncService.Digest).
type RegionDigest struct {
	Region  string `json:"region"`
	Users   uint64 `json:"users"`
	Vectors string `json:"vectors,omitempty"`
	States  string `json:"states,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Digest asks every region for the digests of all slots, of a service or, for an empty name, of all. A region that doesn't answer is named in the report. There is always something on its way between regions, if only the
// canaries of the observers: where regions lack writes it looks again for some seconds, and reports what it saw last.
func (l *Lab) Digest(ctx context.Context, service string) (DigestReport, error) {
	services, err := l.services(service)
	if err != nil {
		return DigestReport{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, digestTimeout)
	defer cancel()
	report := DigestReport{Services: make([]ServiceDigest, len(services)), Equal: true}
	var asking sync.WaitGroup
	for i, name := range services {
		asking.Go(func() { report.Services[i] = l.digestUntilEqual(ctx, name) })
	}
	asking.Wait()
	for _, s := range report.Services {
		report.Equal = report.Equal && s.Equal
	}
	return report, nil
}

func (l *Lab) digestUntilEqual(ctx context.Context, service string) ServiceDigest {
	for until := time.Now().Add(digestPatience); ; {
		report := l.digest(ctx, service)
		if len(report.Behind) == 0 || len(report.Diverged) > 0 || time.Now().After(until) {
			return report
		}
		select {
		case <-ctx.Done():
			return report
		case <-time.After(digestPause):
		}
	}
}

func (l *Lab) digest(ctx context.Context, service string) ServiceDigest {
	report := ServiceDigest{Service: service, Regions: make([]RegionDigest, len(l.regions)), Equal: true}
	digests := make([]digest.Slots, len(l.regions))
	var asking sync.WaitGroup
	for i, r := range l.regions {
		asking.Go(func() { report.Regions[i], digests[i] = r.digest(ctx, service) })
	}
	asking.Wait()
	for _, d := range report.Regions {
		report.Equal = report.Equal && d.Error == ""
	}
	for slot := range digest.All {
		behind, diverged := digest.Compare(slot, digests...)
		if behind {
			report.Behind = append(report.Behind, slot)
		}
		if diverged {
			report.Diverged = append(report.Diverged, slot)
		}
	}
	report.Equal = report.Equal && len(report.Behind) == 0 && len(report.Diverged) == 0
	return report
}

func (r *Region) digest(ctx context.Context, service string) (RegionDigest, digest.Slots) {
	d := RegionDigest{Region: r.Topology.Name}
	var answer *replicationv1.DigestResponse
	err := r.AnySync(ctx, service, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
		answer, err = c.Digest(ctx, &replicationv1.DigestRequest{FirstSlot: 0, Slots: digest.All})
		return err
	})
	if err != nil {
		d.Error = err.Error()
		return d, nil
	}
	vectors, states := sha256.New(), sha256.New()
	for _, s := range answer.GetSlots() {
		d.Users += s.GetUsers()
		number := binary.BigEndian.AppendUint32(nil, s.GetSlot())
		vectors.Write(append(number, s.GetVectors()...))
		states.Write(append(number, s.GetStates()...))
	}
	d.Vectors, d.States = hex.EncodeToString(vectors.Sum(nil)), hex.EncodeToString(states.Sum(nil))
	return d, digest.Read(answer)
}

// ConflictReport lists the conflicts that the regions have seen.
type ConflictReport struct {
	Conflicts []Conflict `json:"conflicts"`
	// Silent are those that didn't answer: the list may lack what only they know.
	Silent SilentList `json:"silent,omitempty"`
}

// Conflict is a write that lost against a concurrent one.
type Conflict struct {
	Service string          `json:"service"`
	Name    string          `json:"name"`
	UserID  string          `json:"user_id"`
	Field   string          `json:"field"`
	Lost    string          `json:"lost"`
	Won     string          `json:"won"`
	Regions []string        `json:"regions"` // that have listed it
	Entry   json.RawMessage `json:"entry"`   // the whole entry, as the API writes it
}

const conflictPage = 1000

// Conflicts asks every region, about a service or, for an empty name, about all, and lists each conflict once.
func (l *Lab) Conflicts(ctx context.Context, service string) (ConflictReport, error) {
	answers, silent, err := everywhere(ctx, l, service, (*Region).conflicts)
	report := ConflictReport{Conflicts: []Conflict{}, Silent: silent}
	if err != nil {
		return report, err
	}
	index := map[[2]string]int{}
	for _, a := range answers {
		for _, e := range a.answer {
			key := [2]string{a.service, e.GetName()}
			at, seen := index[key]
			if !seen {
				c, err := newConflict(a.service, e)
				if err != nil {
					return report, err
				}
				at = len(report.Conflicts)
				index[key] = at
				report.Conflicts = append(report.Conflicts, c)
			}
			report.Conflicts[at].Regions = append(report.Conflicts[at].Regions, a.region)
		}
	}
	return report, nil
}

func newConflict(service string, e *replicationv1.ConflictEntry) (Conflict, error) {
	text, err := protojson.Marshal(e)
	if err != nil {
		return Conflict{}, fmt.Errorf("writing conflict %s: %w", e.GetName(), err)
	}
	return Conflict{
		Service: service, Name: e.GetName(), UserID: userText(e.GetUserId()), Field: e.GetField(), Lost: e.GetLostJson(), Won: e.GetWonJson(), Entry: text,
	}, nil
}

func userText(id []byte) string {
	u, err := uuid.FromBytes(id)
	if err != nil {
		return hex.EncodeToString(id)
	}
	return u.String()
}

func (r *Region) conflicts(ctx context.Context, service string) ([]*replicationv1.ConflictEntry, error) {
	var all []*replicationv1.ConflictEntry
	err := r.AnySync(ctx, service, func(ctx context.Context, c replicationv1.SyncServiceClient) error {
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
// listed it. The name may be a beginning that only one conflict has, of the named service if one is named.
func (l *Lab) RestoreConflict(ctx context.Context, service, name, region string) (Restored, error) {
	report, err := l.Conflicts(ctx, service)
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
	err = r.AnySync(ctx, found.Service, func(ctx context.Context, c replicationv1.SyncServiceClient) error {
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
	var whole, found []Conflict
	for _, c := range r.Conflicts {
		if c.Name == name {
			whole = append(whole, c)
		}
		if name != "" && strings.HasPrefix(c.Name, name) {
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 0:
		return Conflict{}, fmt.Errorf("there is no conflict %q: regionctl conflicts list", name)
	case len(whole) == 1:
		return whole[0], nil
	case len(found) == 1:
		return found[0], nil
	}
	return Conflict{}, fmt.Errorf("%d conflicts have names that begin with %q: give more of it, or say --service", len(found), name)
}

// Reconciled is the outcome of one region's comparison with another.
type Reconciled struct {
	Service string `json:"service"`
	Region  string `json:"region"`
	From    string `json:"from"`
	// Slots compared, and those that differed; users fetched.
	Slots          uint32 `json:"slots"`
	SlotsDiffering uint32 `json:"slots_differing"`
	UsersFetched   uint64 `json:"users_fetched"`
	// Diverged users have seen the same writes and differ: each is a bug.
	Diverged []string `json:"diverged,omitempty"`
	Error    string   `json:"error,omitempty"`
}

const reconcileTimeout = 10 * time.Minute

// Reconcile makes a region compare what it holds of a service with another region, and fetch what it lacks; an empty name stands for all. What fails is named
// in the result.
func (l *Lab) Reconcile(ctx context.Context, service, region, from string) ([]Reconciled, error) {
	services, err := l.services(service)
	if err != nil {
		return nil, err
	}
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
	for _, name := range services {
		for _, r := range l.regions {
			if region != "" && r.Topology.Name != region {
				continue
			}
			for _, other := range l.regions {
				if other == r || from != "" && other.Topology.Name != from {
					continue
				}
				done = append(done, r.reconcile(ctx, name, other.Topology.Name))
			}
		}
	}
	return slices.Clip(done), nil
}

func (r *Region) reconcile(ctx context.Context, service, from string) Reconciled {
	result := Reconciled{Service: service, Region: r.Topology.Name, From: from}
	var answer *replicationv1.ReconcileResponse
	err := r.AnySync(ctx, service, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
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
