package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

// atEdge fetches a path from the edge of a region.
func atEdge(ctx context.Context, r *lab.Region, path string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.DoorTo(topology.PortEdge).String()+path, http.NoBody)
	if err != nil {
		return answer{}, err
	}
	req.Host = cdnName
	resp, err := httpClient().Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body}, err
}

// servedAt waits until the edge of a region serves content, and returns the answer.
func servedAt(t *testing.T, r *lab.Region, path string, content []byte) answer {
	t.Helper()
	var got answer
	await.Until(t, "the edge of "+r.Topology.Name+" serves "+path, patience, func(ctx context.Context) (err error) {
		if got, err = atEdge(ctx, r, path); err != nil {
			return err
		}
		if got.Status != http.StatusOK {
			return fmt.Errorf("%d %.200s", got.Status, got.Body)
		}
		return nil
	})
	if !bytes.Equal(got.Body, content) {
		t.Errorf("the edge of %s serves %d bytes of %s that are not the %d that were uploaded", r.Topology.Name, len(got.Body), path, len(content))
	}
	return got
}

// purgeBound is how long an edge may show what is public no more: a second, and the longest way between two regions.
const purgeBound = time.Second + 100*time.Millisecond

// TestTheEdge serves public content from every region's edge, takes it back everywhere once it is private, and goes on serving while the region that it came from has no power: what the edge has, and what it never had.
func TestTheEdge(t *testing.T) {
	whole(t)
	origin := region(t, "ap-south")
	owner := signedInHere(t, origin, 1)[0]
	content := photo(t, 64, 64)
	asset := owner.publish(t, origin, `{"name":"seen.jpg","visibility":"VISIBILITY_PUBLIC"}`, content)
	rare := photo(t, 48, 48)
	unseen := owner.publish(t, origin, `{"name":"unseen.jpg","visibility":"VISIBILITY_PUBLIC"}`, rare)
	for _, r := range world.Regions() {
		servedAt(t, r, asset.GetPublicPath(), content)
		again := servedAt(t, r, asset.GetPublicPath(), content)
		if status := again.Header.Get("Cache-Status"); !strings.Contains(status, "hit") {
			t.Errorf("the edge of %s does not keep what it has fetched: Cache-Status %q", r.Topology.Name, status)
		}
		if key := again.Header.Get("Surrogate-Key"); key != "" {
			t.Errorf("the edge of %s shows its keys: %q", r.Topology.Name, key)
		}
	}
	for range bounds.Times(20, 1) {
		var late time.Duration
		private := owner.publish(t, origin, `{"name":"soon-private.jpg","visibility":"VISIBILITY_PUBLIC"}`, content)
		for _, r := range world.Regions() {
			servedAt(t, r, private.GetPublicPath(), content)
		}
		_, err := owner.ask(t.Context(), region(t, "eu-west"), http.MethodPatch, "/v1/assets/"+private.GetId(), object("visibility", "VISIBILITY_PRIVATE"))
		must(t, err)
		began := time.Now()
		for _, r := range world.Regions() {
			await.Until(t, "the edge of "+r.Topology.Name+" forgets what is private", patience, func(ctx context.Context) error {
				if a, err := atEdge(ctx, r, private.GetPublicPath()); err != nil || a.Status != http.StatusNotFound {
					return fmt.Errorf("%d (%w)", a.Status, err)
				}
				return nil
			})
			late = max(late, time.Since(began))
		}
		bounds.Within(t, "a purge has reached every edge", late, purgeBound)
	}
	// Other regions have the content before their origin goes.
	nobody := client{nobody: true}
	for _, r := range world.Regions() {
		_, err := nobody.fetched(t.Context(), r, unseen.GetPublicPath())
		must(t, err)
	}
	inject(t, "power-off "+origin.Topology.Name)
	for _, r := range world.Regions() {
		if r != origin {
			servedAt(t, r, asset.GetPublicPath(), content)
			a := servedAt(t, r, unseen.GetPublicPath(), rare)
			if status := a.Header.Get("Cache-Status"); strings.Contains(status, "hit") {
				t.Errorf("the edge of %s had what nobody had asked it for: %q", r.Topology.Name, status)
			}
		}
	}
	heal(t)
}
