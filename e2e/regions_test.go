package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
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

// digests asks a region what it holds of a service: for each slot two hashes.
func digests(ctx context.Context, r *lab.Region, service string) ([]*replicationv1.SlotDigest, error) {
	var slots []*replicationv1.SlotDigest
	err := r.AnySync(ctx, service, func(ctx context.Context, c replicationv1.SyncServiceClient) error {
		resp, err := c.Digest(ctx, &replicationv1.DigestRequest{Slots: id.Slots})
		slots = resp.GetSlots()
		return err
	})
	return slots, err
}

// converged waits until all regions hold the same writes, and wants their content to be the same then, byte for byte.
func converged(t *testing.T) {
	t.Helper()
	eventually(t, "all regions hold the same", func(ctx context.Context) error {
		return alike(ctx, world.Regions()...)
	})
}

// alike returns nil when these regions hold the same of every service.
func alike(ctx context.Context, regions ...*lab.Region) error {
	for _, service := range world.Topology().ServiceNames() {
		if err := alikeIn(ctx, service, regions...); err != nil {
			return fmt.Errorf("%s: %w", service, err)
		}
	}
	return nil
}

func alikeIn(ctx context.Context, service string, regions ...*lab.Region) error {
	first, err := digests(ctx, regions[0], service)
	if err != nil {
		return err
	}
	if len(first) == 0 && service == "user" { // the administrator; of other services there may be nothing yet
		return errors.New("no slot holds anything")
	}
	for _, r := range regions[1:] {
		other, err := digests(ctx, r, service)
		if err != nil {
			return err
		}
		if err := same(first, other); err != nil {
			return fmt.Errorf("%s and %s: %w", regions[0].Topology.Name, r.Topology.Name, err)
		}
	}
	return nil
}

func same(a, b []*replicationv1.SlotDigest) error {
	if len(a) != len(b) {
		return fmt.Errorf("%d and %d slots hold something", len(a), len(b))
	}
	for i := range a {
		switch {
		case a[i].GetSlot() != b[i].GetSlot() || !bytes.Equal(a[i].GetVectors(), b[i].GetVectors()):
			return fmt.Errorf("slot %d: one has writes that the other lacks", a[i].GetSlot())
		case !bytes.Equal(a[i].GetStates(), b[i].GetStates()):
			return fmt.Errorf("slot %d: the same writes, different content: a bug", a[i].GetSlot())
		}
	}
	return nil
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
