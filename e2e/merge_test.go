package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/e2e/bounds"
	"antipode.example/platform/id"
)

// TestDifferentFieldsAreAllKept: two regions that cannot see each other change different fields of one user, and a third adds to a set.
func TestDifferentFieldsAreAllKept(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	for i := range bounds.Times(20, 2) {
		c := &client{}
		u := c.create(t, east, "John")
		c.get(t, west, u.GetId())
		c.get(t, south, u.GetId())

		heal := cut(t, east, west)
		concurrently(t, u.GetId(),
			change{*c, east, `{"firstName":"Jack","address":{"city":"Boston"}}`},
			change{*c, west, `{"lastName":"Smythe","address":{"postalCode":"02108"}}`},
			change{*c, south, `{"phoneNumbers":["+12125551234","+16465554567"]}`})
		heal()
		converged(t)

		got := everywhere(t, u.GetId())
		if got.GetFirstName() != "Jack" || got.GetLastName() != "Smythe" || got.GetAddress().GetCity() != "Boston" ||
			got.GetAddress().GetPostalCode() != "02108" || got.GetAddress().GetStreetAddress() != "21 2nd Street" ||
			!slices.Equal(got.GetPhoneNumbers(), []string{"+12125551234", "+16465554567"}) {
			t.Fatalf("round %d: something is lost: %v", i, got)
		}
		if all := conflicts(t, u.GetId()); len(all) > 0 {
			t.Errorf("round %d: different fields are no conflict: %v", i, all)
		}
	}
}

// TestSameFieldHasOneWinner: of two concurrent writes of one field one wins everywhere; the other is listed once, and can be restored.
func TestSameFieldHasOneWinner(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	c := &client{}
	u := c.create(t, south, "John")
	c.get(t, east, u.GetId())
	c.get(t, west, u.GetId())

	heal := cut(t, east, west)
	concurrently(t, u.GetId(),
		change{*c, east, `{"displayName":"from east"}`},
		change{*c, west, `{"displayName":"from west"}`})
	heal()
	converged(t)

	won := everywhere(t, u.GetId()).GetDisplayName()
	lost := "from east"
	if won == lost {
		lost = "from west"
	} else if won != "from east" && won != "from west" {
		t.Fatalf("nobody wrote %q", won)
	}
	all := conflicts(t, u.GetId())
	if len(all) != 1 {
		t.Fatalf("%d conflicts are listed, want 1: %v", len(all), all)
	}
	entry := all[0]
	if entry.GetField() != "display_name" || entry.GetLostJson() != strconv.Quote(lost) || entry.GetWonJson() != strconv.Quote(won) {
		t.Errorf("the entry says %s: %s lost against %s; %q lost against %q", entry.GetField(), entry.GetLostJson(), entry.GetWonJson(), lost, won)
	}

	user, err := id.Parse(u.GetId())
	if err != nil {
		t.Fatal(err)
	}
	err = south.AnySync(t.Context(), "user", func(ctx context.Context, c replicationv1.SyncServiceClient) error {
		_, err := c.RestoreConflict(ctx, &replicationv1.RestoreConflictRequest{UserId: user[:], Name: entry.GetName()})
		return err
	})
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	converged(t)
	if got := everywhere(t, u.GetId()).GetDisplayName(); got != lost {
		t.Errorf("after restoring, the display name is %q, want %q", got, lost)
	}
}

// TestCauseBeforeEffect: us-east writes, eu-west sees it and writes on; ap-south, which cannot hear us-east, never shows the second without the first.
func TestCauseBeforeEffect(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	c := &client{}
	u := c.create(t, east, "0")
	c.patch(t, east, u.GetId(), `{"lastName":"0"}`)
	c.get(t, south, u.GetId())
	heal := cut(t, east, south)

	rounds := bounds.Times(200, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var watcher sync.WaitGroup
	reads, shown := 0, 0
	watcher.Go(func() {
		for ctx.Err() == nil && shown < rounds {
			var stranger client
			a, err := stranger.try(ctx, south, "GET", "/v1/users/"+u.GetId(), "")
			var first, second int
			if err == nil {
				first, second, err = numbers(a)
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				t.Errorf("read in ap-south: %v", err)
				return
			case second > first:
				t.Errorf("ap-south shows effect %d without its cause, only %d", second, first)
				return
			case second < shown:
				t.Errorf("ap-south went back from %d to %d", shown, second)
				return
			}
			reads, shown = reads+1, second
		}
	})
	for i := 1; i <= rounds; i++ {
		c.patch(t, east, u.GetId(), fmt.Sprintf(`{"firstName":"%d"}`, i))
		if got := c.get(t, west, u.GetId()).GetFirstName(); got != strconv.Itoa(i) {
			t.Fatalf("eu-west shows %q to a token that covers %d", got, i)
		}
		c.patch(t, west, u.GetId(), fmt.Sprintf(`{"lastName":"%d"}`, i))
	}
	// eu-west has both, and ap-south hears eu-west: it gets there while the cut lasts.
	eventually(t, "ap-south has both by way of eu-west", func(ctx context.Context) error {
		var stranger client
		a, err := stranger.try(ctx, south, "GET", "/v1/users/"+u.GetId(), "")
		if err != nil {
			return err
		}
		if got := a.user(t).GetLastName(); got != strconv.Itoa(rounds) {
			return fmt.Errorf("it shows %q", got)
		}
		return nil
	})
	cancel()
	watcher.Wait()
	t.Logf("%d reads in ap-south during %d rounds", reads, rounds)
	heal()
	converged(t)
}

// numbers reads cause and effect.
func numbers(a answer) (first, second int, err error) {
	u, err := a.decode()
	if err != nil {
		return 0, 0, err
	}
	if first, err = strconv.Atoi(u.GetFirstName()); err != nil {
		return 0, 0, err
	}
	second, err = strconv.Atoi(u.GetLastName())
	return first, second, err
}
