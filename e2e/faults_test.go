package e2e

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
)

// whole waits until everything in all regions is ready and every shard could lose a node.
func whole(t *testing.T) {
	t.Helper()
	eventually(t, "all regions are up", func(ctx context.Context) error {
		for _, r := range world.Regions() {
			for shard := range r.Topology.Shards {
				if err := engine.ShardReady(ctx, r.Dial, r.Topology, shard); err != nil {
					return fmt.Errorf("%s: %w", r.Topology.Name, err)
				}
			}
		}
		s, err := world.Status(ctx)
		if err != nil {
			return err
		}
		for _, r := range s.Regions {
			if r.State != "up" {
				return fmt.Errorf("%s is %s", r.Name, r.State)
			}
		}
		return nil
	})
}

// inject breaks what the words say, and sees that it is broken; components may be called by their roles, see roleName. It is healed with heal, or with the test.
func inject(t *testing.T, faults ...string) {
	t.Helper()
	t.Cleanup(func() { // other tests need a whole world
		if _, err := world.HealAll(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	var values []*lab.Fault
	for _, words := range faults { // roles are those of the whole world
		list := strings.Fields(words)
		for i := range list {
			list[i] = roleName(t, list[i])
		}
		f, err := world.Fault(list...)
		must(t, err)
		values = append(values, f)
	}
	for _, f := range values {
		must(t, f.Inject(t.Context()))
		must(t, f.Verify(t.Context()))
	}
}

// heal heals all that was injected, and waits until the world is whole.
func heal(t *testing.T) {
	t.Helper()
	_, err := world.HealAll(t.Context())
	must(t, err)
	whole(t)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// capturing is the instance of a service, the users' when none is named, that publishes the shard's events: capturing-s1, session-capturing-s1.
var capturing = regexp.MustCompile(`^(?:(.+)-)?capturing-s(\d+)$`)

// roleName finds the component that has a role now: primary-sN and standby-sN are nodes of a database; see capturing for another.
// Today an instance is one process with all roles, so what leads capture reads other regions' logs and serves clients too.
func roleName(t *testing.T, name string) string {
	t.Helper()
	at, component, _ := strings.Cut(name, "/")
	if of := capturing.FindStringSubmatch(component); of != nil {
		service, shard := cmp.Or(of[1], "user"), "s"+of[2]
		r := region(t, at)
		for i := range r.Topology.Instances {
			leads, err := samples(t.Context(), r, service, i, "antipode_capture_leader")
			must(t, err)
			if leads[shard] == 1 {
				return at + "/" + engine.InstanceName(service, i)
			}
		}
		t.Fatalf("no instance of %s in %s captures %s", service, at, shard)
	}
	role, shard, ok := strings.Cut(component, "-s")
	if !ok {
		return name
	}
	r := region(t, at)
	switch role {
	case "primary", "standby":
		for node := range r.Topology.NodesPerShard {
			n, err := engine.AskNode(t.Context(), r.Dial, r.Topology, int(shard[0]-'1'), node)
			must(t, err)
			if n.Primary() == (role == "primary") {
				return at + "/" + engine.NodeName(int(shard[0]-'1'), node)
			}
		}
	default:
		return name
	}
	t.Fatalf("%s has no %s", at, component)
	return ""
}
