package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"antipode.example/regions/caller"
)

// Loss is an acknowledged write that a region does not show.
type Loss struct {
	Write  Write  `json:"write"`
	Region string `json:"region"`
	Shows  string `json:"shows"`
}

// Report is what became of the writes of a ledger.
type Report struct {
	Acked, Refused, Unknown int
	// Late counts fields that show a write of unknown outcome from before the last acknowledged one: nobody knows when it was carried out, so it may have come later.
	Late int
	// Denied are writes that a region did not let the caller make, who may.
	Denied []Write
	// Users that were read in every region.
	Users int
	// Lost are acknowledged writes that a region lacks; Ghosts are values that a region shows although their write was refused, or that nobody wrote.
	Lost, Ghosts []Loss
	// Differ are users that two regions show differently.
	Differ []string
}

// Err says what is wrong, with the first few of each; nil when nothing is.
func (r Report) Err() error {
	if len(r.Lost)+len(r.Ghosts)+len(r.Differ)+len(r.Denied) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "of %d acknowledged writes %d are missing somewhere, %d values should not be there, %d users differ, %d writes were denied",
		r.Acked, len(r.Lost), len(r.Ghosts), len(r.Differ), len(r.Denied))
	list := func(what string, all []Loss) {
		for _, l := range all[:min(5, len(all))] {
			fmt.Fprintf(&b, "\n%s: %s shows %q for write %d: %s %s of user %s in %s, %q (durability %s), sent at %.3f s, answered at %.3f s", what, l.Region, l.Shows,
				l.Write.Seq, l.Write.Kind, l.Write.Field, l.Write.User, l.Write.Region, l.Write.Value, l.Write.Got, l.Write.Sent.Seconds(), l.Write.Done.Seconds())
		}
	}
	list("lost", r.Lost)
	list("ghost", r.Ghosts)
	for _, w := range r.Denied[:min(5, len(r.Denied))] {
		fmt.Fprintf(&b, "\ndenied: %s answers %s to write %d, %s, sent at %.3f s, request %s", w.Region, w.Reason, w.Seq, w.Kind, w.Sent.Seconds(), w.RequestID)
	}
	fmt.Fprintf(&b, "\ndiffer: %s", strings.Join(r.Differ[:min(5, len(r.Differ))], ", "))
	return fmt.Errorf("%s", b.String())
}

const (
	readers   = 8
	readPause = 200 * time.Millisecond
)

// Check reads every user of the ledger back from every region, as an administrator and without a causal token, and judges. The load must have stopped and the regions must have had the time to
// exchange what they have. A region that can't answer is asked again until ctx ends.
func Check(ctx context.Context, as *caller.Session, regions []Region, writes []Write) (Report, error) {
	var report Report
	byUser := make(map[string][]Write)
	for _, w := range writes {
		switch w.Outcome {
		case Acked:
			report.Acked++
		case Refused:
			report.Refused++
		case Unknown:
			report.Unknown++
		}
		if w.Denied {
			report.Denied = append(report.Denied, w)
		}
		if w.User != "" {
			byUser[w.User] = append(byUser[w.User], w)
		}
	}
	users := make([]string, 0, len(byUser))
	for u := range byUser {
		users = append(users, u)
	}
	slices.Sort(users)
	shown := make([][]string, len(users)) // by user and region
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i, u := range users {
		shown[i] = make([]string, len(regions))
		for j, r := range regions {
			g.Go(func() (err error) {
				shown[i][j], err = show(gctx, as, r, u)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return report, err
	}
	report.Users = len(users)
	for i, u := range users {
		for j, r := range regions {
			report.judge(r.Name, shown[i][j], byUser[u])
			if shown[i][j] != shown[i][0] {
				report.Differ = append(report.Differ, u)
			}
		}
	}
	report.Differ = slices.Compact(report.Differ)
	return report, nil
}

// show is what a region shows of a user; empty when it has none.
func show(ctx context.Context, as *caller.Session, r Region, user string) (string, error) {
	for {
		a, err := as.Do(ctx, r, caller.Request{Method: http.MethodGet, Path: "/v1/users/" + user})
		switch {
		case err == nil && a.Status == http.StatusOK:
			return string(a.Body), nil
		case err == nil && a.Status == http.StatusNotFound:
			return "", nil
		case err == nil && a.Status < http.StatusInternalServerError:
			return "", fmt.Errorf("read user %s: %w", user, a.Err())
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("read user %s in %s: %w: status %d: %s (%w)", user, r.Name, context.Cause(ctx), a.Status, a.Body, err)
		case <-time.After(readPause):
		}
	}
}

// judge compares what a region shows of a user with the writes of that user, in the order of their sending within a field.
func (r *Report) judge(region, shown string, writes []Write) {
	var p profile
	if shown != "" {
		if err := json.Unmarshal([]byte(shown), &p); err != nil {
			r.Ghosts = append(r.Ghosts, Loss{writes[0], region, shown})
			return
		}
	}
	tried := make(map[string][]Write) // by field
	for _, w := range writes {
		field := w.Field
		if w.Kind == Create {
			if w.Outcome == Acked && p.ID == "" {
				r.Lost = append(r.Lost, Loss{w, region, ""})
				return
			}
			field = "firstName"
		}
		tried[field] = append(tried[field], w)
	}
	for field, list := range tried {
		slices.SortFunc(list, func(a, b Write) int { return int(a.Sent - b.Sent) })
		shows := p.field(field)
		at := slices.IndexFunc(list, func(w Write) bool { return w.Value == shows })
		last := -1 // acknowledged
		for i, w := range list {
			if w.Outcome == Acked {
				last = i
			}
		}
		switch {
		case last >= 0 && at >= 0 && at < last && list[at].Outcome == Unknown:
			r.Late++
		case last >= 0 && at < last:
			r.Lost = append(r.Lost, Loss{list[last], region, shows})
		case at >= 0 && list[at].Outcome == Refused:
			r.Ghosts = append(r.Ghosts, Loss{list[at], region, shows})
		case at < 0 && shows != "":
			r.Ghosts = append(r.Ghosts, Loss{list[0], region, shows})
		}
	}
}
