package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
	slots "antipode.example/regions/digest"
	"antipode.example/regions/lab"
	"antipode.example/regions/wan"
)

// cut cuts two regions from each other, silently, until healed or the end of the test.
func cut(t *testing.T, a, b *lab.Region) (heal func()) {
	t.Helper()
	pairs := wan.Both(a.Topology.Name, b.Topology.Name)
	if err := world.Network().WAN().Cut(pairs...); err != nil {
		t.Fatal(err)
	}
	heal = func() {
		if err := world.Network().WAN().Heal(pairs...); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(heal)
	return heal
}

// converged waits until all regions hold the same writes, and wants their content to be the same then, byte for byte.
func converged(t *testing.T) {
	t.Helper()
	eventually(t, "all regions hold the same", alike(world.Regions()...))
}

// alike returns what is nil once these regions have held the same of every service, slot by slot. Observers never cease to write their canaries, so it need not be at one moment.
func alike(regions ...*lab.Region) func(context.Context) error {
	was := map[string]map[uint32]bool{} // the slots that were alike, by service
	for _, service := range world.Topology().ServiceNames() {
		was[service] = map[uint32]bool{}
	}
	return func(ctx context.Context) error {
		for _, service := range world.Topology().ServiceNames() {
			if err := alikeIn(ctx, service, was[service], regions...); err != nil {
				return fmt.Errorf("%s: %w", service, err)
			}
		}
		return nil
	}
}

func alikeIn(ctx context.Context, service string, was map[uint32]bool, regions ...*lab.Region) error {
	held := make([]slots.Slots, len(regions))
	users := 0
	for i, r := range regions {
		err := r.AnySync(ctx, service, func(ctx context.Context, c replicationv1.SyncServiceClient) (err error) {
			held[i], err = slots.Ask(ctx, c, 0, slots.All)
			return err
		})
		if err != nil {
			return err
		}
		users += len(held[i])
	}
	if users == 0 && service == "user" { // the administrator; of other services there may be nothing yet
		return errors.New("no slot holds anything")
	}
	var err error
	for slot := range slots.All {
		behind, diverged := slots.Compare(slot, held...)
		switch {
		case diverged:
			return fmt.Errorf("slot %d of %v: the same writes, different content: a bug", slot, namesOf(regions))
		case !behind:
			was[slot] = true
		case !was[slot]:
			err = fmt.Errorf("slot %d of %v: one has writes that another lacks", slot, namesOf(regions))
		}
	}
	return err
}

// conflicts lists a user's conflicts, each once, as found in all regions.
func conflicts(t *testing.T, userID string) []*replicationv1.ConflictEntry {
	t.Helper()
	user, err := id.Parse(userID)
	if err != nil {
		t.Fatal(err)
	}
	var all []*replicationv1.ConflictEntry
	for _, r := range world.Regions() {
		err := r.AnySync(t.Context(), "user", func(ctx context.Context, c replicationv1.SyncServiceClient) error {
			resp, err := c.Conflicts(ctx, &replicationv1.ConflictsRequest{UserId: user[:]})
			for _, e := range resp.GetEntries() {
				if !slices.ContainsFunc(all, func(o *replicationv1.ConflictEntry) bool { return o.GetName() == e.GetName() }) {
					all = append(all, e)
				}
			}
			return err
		})
		if err != nil {
			t.Fatalf("list conflicts in %s: %v", r.Topology.Name, err)
		}
	}
	return all
}
