package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/e2e/bounds"
	"antipode.example/platform/takeover"
)

// TestAWorkerThatDiesLeavesNothingUndone: the worker of a region is killed over and over while photos come in. All of them get their variants, the same in every region.
func TestAWorkerThatDiesLeavesNothingUndone(t *testing.T) {
	whole(t)
	east := region(t, "us-east")
	s := signedInAt(t, east, join(t, east))
	var photos []*assetv1.Asset
	for range bounds.Times(30, 4) {
		photos = append(photos, s.publish(t, east, "{}", photo(t, 3000, 2000)))
		if len(photos)%2 == 0 {
			inject(t, "crash us-east/asset-work")
			heal(t)
		}
	}
	must(t, s.renew(t.Context(), east))
	s.alikeEverywhere(t, photos)
}

// alikeEverywhere wants all regions to show the same variants of photos, and to give the thumbnails.
func (s *signedIn) alikeEverywhere(t *testing.T, photos []*assetv1.Asset) {
	t.Helper()
	for _, p := range photos {
		var thumb string
		for _, r := range world.Regions() {
			shown, err := s.shown(t.Context(), r, p, developed)
			must(t, err)
			if len(shown.GetVariants()) != 3 || shown.GetWidth() == 0 {
				t.Errorf("%s shows %v", r.Topology.Name, shown)
			}
			got, err := s.fetched(t.Context(), r, contentPath(p, "thumb"))
			must(t, errors.Join(err, got.thumbnail()))
			if thumb == "" {
				thumb = sumOf(got.Body)
			}
			if thumb != sumOf(got.Body) {
				t.Errorf("%s has another thumbnail of %s", r.Topology.Name, p.GetId())
			}
		}
	}
}

// lastBeat is how long before its end a region may have been heard for the last time.
const lastBeat = 2 * time.Second

// TestAnotherRegionMakesWhatADeadOneOwes: us-east takes a photo and loses its power before a worker has looked at it. Once it has been silent for long enough another region makes the variants; when us-east is back it has
// them, too.
func TestAnotherRegionMakesWhatADeadOneOwes(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: TestAnotherRegionLooksIntoImages of services/asset/app is the sample")
	}
	whole(t)
	ctx, east, west, south := t.Context(), region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	s := signedInAt(t, east, join(t, east))
	inject(t, "kill us-east/asset-work")
	owed := s.publish(t, east, "{}", photo(t, 2000, 1500), "antipode-durability", "remote")
	_, err := s.shown(ctx, west, owed, ready)
	must(t, err)
	eventually(t, "the photo is in eu-west", func(context.Context) error { return holds(west, []string{owed.GetSha256()}, true) })
	died := time.Now()
	inject(t, "power-off us-east")
	made, err := s.shown(ctx, west, owed, developed)
	must(t, err)
	took := time.Since(died)
	if bounds.Within(t, "another region makes variants", took, takeover.After+30*time.Second); took < takeover.After-lastBeat {
		t.Errorf("the variants were made after %s, while us-east may have lived: %v", took, made)
	}
	got, err := s.fetched(ctx, south, contentPath(owed, "thumb"))
	must(t, errors.Join(err, got.thumbnail()))
	heal(t)
	must(t, s.renew(ctx, east))
	s.alikeEverywhere(t, []*assetv1.Asset{owed})
	converged(t)
}
