package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
)

// LetterReport lists the dead letters of the regions: messages of each other's logs that they could not apply.
type LetterReport struct {
	Letters []Letter `json:"letters"`
	// Silent are those that didn't answer: their letters are missing.
	Silent SilentList `json:"silent,omitempty"`
}

// Letter is a dead letter of one region. The same message may be one in several regions, under the same name.
type Letter struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	// Region has it; Origin is the region whose log it stood on.
	Region string `json:"region"`
	Origin string `json:"origin"`
	// UserID is whom it is about, Write the write that it brings; both are empty when that can't be told.
	UserID    string    `json:"user_id,omitempty"`
	Write     string    `json:"write,omitempty"`
	Topic     string    `json:"topic"`
	Partition uint32    `json:"partition"`
	Offset    int64     `json:"offset"`
	Bytes     uint32    `json:"bytes"`
	Error     string    `json:"error"`
	CameAt    time.Time `json:"came_at"`
	// State is open, or why it needs nobody any more: arrived, compared, dropped.
	State     string     `json:"state"`
	SettledAt *time.Time `json:"settled_at,omitempty"`
}

// LetterOpen is the state of a letter that is not settled.
const LetterOpen = "open"

func newLetter(service, region string, l *replicationv1.DeadLetter) Letter {
	out := Letter{
		Service: service, Name: l.GetName(), Region: region, Origin: l.GetRegion(), Topic: l.GetTopic(), Partition: l.GetPartition(), Offset: l.GetOffset(),
		Bytes: l.GetBytes(), Error: l.GetError(), CameAt: time.UnixMilli(l.GetCameUnixMs()), State: LetterOpen,
	}
	if len(l.GetUserId()) > 0 {
		out.UserID = userText(l.GetUserId())
	}
	if w := l.GetWrite(); w != nil {
		out.Write = fmt.Sprintf("%d.%d:%d", w.GetReplica()>>16, w.GetReplica()&0xffff, w.GetN())
	}
	if l.GetSettled() != replicationv1.Settlement_SETTLEMENT_UNSPECIFIED {
		out.State = strings.ToLower(strings.TrimPrefix(l.GetSettled().String(), "SETTLEMENT_"))
		at := time.UnixMilli(l.GetSettledUnixMs())
		out.SettledAt = &at
	}
	return out
}

// Letters asks every region for its dead letters, of a service or, for an empty name, of all: those that are open, or all that are kept; oldest first.
func (l *Lab) Letters(ctx context.Context, service string, settled bool) (LetterReport, error) {
	answers, silent, err := everywhere(ctx, l, service, func(r *Region, ctx context.Context, service string) ([]Letter, error) {
		return r.letters(ctx, service, settled)
	})
	report := LetterReport{Letters: []Letter{}, Silent: silent}
	for _, a := range answers {
		report.Letters = append(report.Letters, a.answer...)
	}
	slices.SortStableFunc(report.Letters, func(a, b Letter) int { return a.CameAt.Compare(b.CameAt) })
	return report, err
}

func (r *Region) letters(ctx context.Context, service string, settled bool) ([]Letter, error) {
	var all []Letter
	err := r.AnySync(ctx, service, func(ctx context.Context, c replicationv1.SyncServiceClient) error {
		all = nil
		for token := ""; ; {
			page, err := c.DeadLetters(ctx, &replicationv1.DeadLettersRequest{Settled: settled, PageToken: token, PageSize: conflictPage})
			if err != nil {
				return err
			}
			for _, one := range page.GetLetters() {
				all = append(all, newLetter(service, r.Topology.Name, one))
			}
			if token = page.GetNextPageToken(); token == "" {
				return nil
			}
		}
	})
	return all, err
}

// Find returns the letters, one for each region that has it, whose name is or begins with name; of one region alone when that is named.
func (r LetterReport) Find(name, region string) ([]Letter, error) {
	var found []Letter
	names := map[[2]string]bool{}
	for _, l := range r.Letters {
		if name != "" && strings.HasPrefix(l.Name, name) && (region == "" || l.Region == region) {
			found = append(found, l)
			names[[2]string{l.Service, l.Name}] = true
		}
	}
	where := ""
	if region != "" {
		where = " in " + region
	}
	switch {
	case len(names) > 1:
		return nil, fmt.Errorf("%d dead letters have names that begin with %q%s: give more of it, or say --service", len(names), name, where)
	case len(names) == 1:
		return found, nil
	case len(r.Silent) > 0:
		return nil, fmt.Errorf("there is no dead letter %q%s, as far as is known: no answer from %s", name, where, r.Silent)
	}
	return nil, fmt.Errorf("there is no dead letter %q%s: regionctl dlq list --all", name, where)
}

// LetterDone is what became of one letter.
type LetterDone struct {
	Letter
	// Reason is why it is still open.
	Reason string `json:"reason,omitempty"`
}

// ReplayLetter tries a dead letter again in every region that has it open, or in the named one. The name may be a beginning that only one has, of the named
// service if one is named.
func (l *Lab) ReplayLetter(ctx context.Context, service, name, region string) ([]LetterDone, error) {
	return l.onLetters(ctx, service, name, region, func(ctx context.Context, c replicationv1.SyncServiceClient, name string) (*replicationv1.DeadLetter, string, error) {
		res, err := c.ReplayDeadLetter(ctx, &replicationv1.ReplayDeadLetterRequest{Name: name})
		return res.GetLetter(), res.GetReason(), err
	})
}

// DropLetter gives a dead letter up in every region that has it open, or in the named one; the name is as for ReplayLetter.
func (l *Lab) DropLetter(ctx context.Context, service, name, region string) ([]LetterDone, error) {
	return l.onLetters(ctx, service, name, region, func(ctx context.Context, c replicationv1.SyncServiceClient, name string) (*replicationv1.DeadLetter, string, error) {
		res, err := c.DropDeadLetter(ctx, &replicationv1.DropDeadLetterRequest{Name: name})
		return res.GetLetter(), "", err
	})
}

func (l *Lab) onLetters(ctx context.Context, service, name, region string,
	do func(context.Context, replicationv1.SyncServiceClient, string) (*replicationv1.DeadLetter, string, error),
) ([]LetterDone, error) {
	if region != "" {
		if _, err := l.Region(region); err != nil {
			return nil, err
		}
	}
	report, err := l.Letters(ctx, service, true)
	if err != nil {
		return nil, err
	}
	found, err := report.Find(name, region)
	if err != nil {
		return nil, err
	}
	open := slices.DeleteFunc(slices.Clone(found), func(x Letter) bool { return x.State != LetterOpen })
	if len(open) == 0 {
		return nil, fmt.Errorf("dead letter %s is settled (%s): there is nothing to do", found[0].Name, found[0].State)
	}
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	var done []LetterDone
	for _, x := range open {
		r, err := l.Region(x.Region)
		if err != nil {
			return done, err
		}
		var after *replicationv1.DeadLetter
		var reason string
		err = r.AnySync(ctx, x.Service, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
			after, reason, err = do(ctx, c, x.Name)
			return err
		})
		if err != nil {
			return done, fmt.Errorf("dead letter %s in %s: %w", x.Name, x.Region, err)
		}
		done = append(done, LetterDone{Letter: newLetter(x.Service, x.Region, after), Reason: reason})
	}
	return done, nil
}
