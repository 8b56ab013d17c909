package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"antipode.example/e2e/bounds"
	"antipode.example/regions/drill"
)

// TestNothingIsToldThatTheStandbyLacks: while the synchronous standbys of us-east stand still, eu-west sees nothing of what is written there; then all of it.
func TestNothingIsToldThatTheStandbyLacks(t *testing.T) {
	whole(t)
	east, west := region(t, "us-east"), region(t, "eu-west")
	c := &client{}
	u := c.create(t, east, "Before")
	c.get(t, west, u.GetId())
	nodes := primaries(t, east)
	access, err := accessToken(t.Context()) // from before: to renew one is a write, which would wait for the standbys too
	must(t, err)
	inject(t, "pause us-east/standby-s1", "pause us-east/standby-s2") // one of them is the user's
	written := make(chan error, 1)
	go func() {
		a, err := (&client{access: access}).try(t.Context(), east, http.MethodPatch, "/v1/users/"+u.GetId(), `{"firstName":"After"}`)
		// The standbys may count for longer than a request may take. The write is committed all the same.
		if err == nil && a.Status != http.StatusOK && !bytes.Contains(a.Body, []byte(`"reason":"unknown_outcome"`)) {
			err = errors.New(string(a.Body))
		}
		written <- err
	}()
	looks := 0
	eventually(t, "the standbys, which are silent for long, are given up", func(ctx context.Context) error {
		stranger := client{access: access}
		a, err := stranger.try(ctx, west, http.MethodGet, "/v1/users/"+u.GetId(), "")
		if err != nil {
			return err
		}
		shown := a.user(t).GetFirstName()
		for _, node := range nodes {
			if named, err := query(ctx, east, node, "show synchronous_standby_names"); err != nil || named == "" {
				return err
			}
		}
		if looks++; shown != "Before" {
			t.Fatalf("eu-west shows %q, which no standby has", shown)
		}
		return errors.New("they count for the primaries")
	})
	if looks < 3 {
		t.Errorf("while the standbys counted, eu-west was asked only %d times", looks)
	}
	heal(t)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	converged(t)
	if got := everywhere(t, u.GetId()).GetFirstName(); got != "After" {
		t.Errorf("the first name is %q", got)
	}
}

// TestWithoutAnyStandby: us-east loses all its standbys. It says so, and goes on with what is then on one disk only; when they are back and have caught up, each
// becomes the primary, and nothing is missing.
func TestWithoutAnyStandby(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: it takes a minute")
	}
	east := region(t, "us-east")
	w := underWrites(t, drill.Config{Remote: drillRemote})
	w.written("before", writesBefore, w.regions...)
	inject(t, "kill us-east/standby-s1", "kill us-east/standby-s2")
	eventually(t, "status says that no standby is there", func(ctx context.Context) error {
		s, err := world.Status(ctx)
		if err != nil {
			return err
		}
		if r := s.Regions[0].Replication; r != nil {
			for _, need := range r.NeedsPerson {
				if need.Kind == "no_standby" && strings.Contains(need.Text, "s1, s2") {
					return nil
				}
			}
		}
		return fmt.Errorf("replication says %+v", s.Regions[0].Replication)
	})
	w.written("without a standby", writesDuring, w.regions...)
	eventually(t, "the metric says that no standby is there", func(ctx context.Context) error {
		for i := range east.Topology.Instances {
			byShard, err := samples(ctx, east, "user", i, "antipode_capture_bound_standby")
			if err != nil {
				return err
			}
			for shard, bounded := range byShard {
				if bounded != 0 {
					return fmt.Errorf("shard %s is bounded by a standby", shard)
				}
			}
		}
		return nil
	})
	heal(t)
	w.written("with standbys again", writesAfter, w.regions...)

	began := time.Now()
	inject(t, "kill us-east/primary-s1", "kill us-east/primary-s2")
	w.written("after the standbys were promoted", writesDuring, w.regions...)
	t.Logf("us-east had %d writes %s after its primaries were killed", writesDuring, time.Since(began).Round(time.Millisecond))
	heal(t)
	if err := w.check(w.regions...).Err(); err != nil {
		t.Error(err)
	}
}
