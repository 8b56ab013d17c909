package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/regions/caller"
	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

var (
	rounds = flag.Int("rounds", 1, "rounds of a benchmark that compares")
	each   = flag.Duration("each", 2*time.Second, "how long writers write in each round, at each rate")
)

// from is where writes are made.
const from = "us-east"

// BenchmarkLag starts a lab (as root) and compares how long a committed write needs until another region answers it, with the one-way delay of the link.
//
// A sample begins when the writer in us-east has its answer, and ends when a GET with the causal token, sent at that moment to the other region, is
// answered. Both clients are on the host, 1 ms from their regions. The link's delay is half of what a TCP connection needs from one region to the other.
func BenchmarkLag(b *testing.B) {
	world := startLab(b)
	here, err := world.Region(from)
	if err != nil {
		b.Fatal(err)
	}
	var others []*lab.Region
	for _, r := range world.Regions() {
		if r != here {
			others = append(others, r)
		}
	}
	c := newLagClient(b, administrator(b, world), here, others)
	for round := range *rounds {
		b.Run(fmt.Sprintf("round=%d/link", round+1), func(b *testing.B) {
			for _, r := range others {
				report(b, r, "ms", oneWay(b, world, r))
			}
		})
		for _, rate := range []int{10, 40} {
			b.Run(fmt.Sprintf("round=%d/rate=%d", round+1, rate), func(b *testing.B) {
				lags, achieved := c.run(b, rate)
				for i, r := range others {
					slices.Sort(lags[i])
					for _, p := range []int{50, 95, 99} {
						report(b, r, fmt.Sprintf("p%d-ms", p), percentile(lags[i], p))
					}
				}
				b.ReportMetric(achieved, "writes/s")
			})
		}
	}
}

func report(b *testing.B, r *lab.Region, unit string, d time.Duration) {
	b.Helper()
	b.ReportMetric(float64(d.Microseconds())/1e3, r.Topology.Name+"-"+unit)
}

// percentile of sorted values, by nearest rank.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func startLab(b *testing.B) *lab.Lab {
	b.Helper()
	if testing.Short() {
		b.Skip("needs a lab")
	}
	if os.Geteuid() != 0 {
		b.Fatal("namespaces need root; run: make bench")
	}
	// The engines run as another user, who has to get through to its data.
	dir, err := os.MkdirTemp("", "antipode-bench-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	world, err := lab.Start(b.Context(), lab.Options{
		Name: "bench", DataDir: dir, BinDir: "../../bin", Logger: slog.New(slog.DiscardHandler), StartTimeout: 5 * time.Minute,
	})
	if err != nil {
		b.Fatalf("start the lab: %v\n%s", err, logTails(filepath.Join(dir, "bench", "logs")))
	}
	b.Cleanup(func() {
		if err := world.Close(context.WithoutCancel(b.Context())); err != nil {
			b.Errorf("stop the lab: %v", err)
		}
	})
	return world
}

// logTails are the last lines of each component's log.
func logTails(dir string) string {
	var out strings.Builder
	files, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil {
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			fmt.Fprintf(&out, "== %s\n%s\n", strings.TrimPrefix(f, dir), strings.Join(lines[max(0, len(lines)-5):], "\n"))
		}
	}
	return out.String()
}

// oneWay is half of the median time that a TCP connection to another region needs.
func oneWay(b *testing.B, world *lab.Lab, to *lab.Region) time.Duration {
	b.Helper()
	address := netip.AddrPortFrom(to.Topology.Front(), topology.PortFront).String()
	var took []time.Duration
	for range 9 {
		began := time.Now()
		conn, err := world.Network().Namespace(from).Dial(b.Context(), "tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began)/2)
		conn.Close()
	}
	slices.Sort(took)
	return percentile(took, 50)
}

// lagClient writes users in one region and reads them in the others.
type lagClient struct {
	http   *http.Client
	admin  *caller.Session
	here   string
	others []string
	users  []string
}

// administrator signs in as one of its own.
func administrator(b *testing.B, world *lab.Lab) *caller.Session {
	b.Helper()
	var doors []caller.Region
	for _, r := range world.Regions() {
		doors = append(doors, caller.Region{Name: r.Topology.Name, Address: r.Door().String()})
	}
	admin, err := caller.Administrator(b.Context(), lab.KeysDir(world.Dir()), doors)
	if err != nil {
		b.Fatal(err)
	}
	return admin
}

func newLagClient(b *testing.B, admin *caller.Session, here *lab.Region, others []*lab.Region) *lagClient {
	b.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: lagUsers}
	b.Cleanup(transport.CloseIdleConnections)
	c := &lagClient{http: &http.Client{Transport: transport, Timeout: 30 * time.Second}, admin: admin, here: here.Door().String()}
	for _, r := range others {
		c.others = append(c.others, r.Door().String())
	}
	for range lagUsers {
		body, token, err := c.call(b.Context(), http.MethodPost, c.here+"/v1/users", `{"firstName":"John","email":"`+strings.ToLower(rand.Text())+`@example.com"}`, "")
		if err != nil {
			b.Fatal(err)
		}
		var u struct{ ID string }
		if err := json.Unmarshal(body, &u); err != nil {
			b.Fatal(err)
		}
		c.users = append(c.users, u.ID)
		for _, other := range c.others { // connections stand, and the user is there
			if _, _, err := c.call(b.Context(), http.MethodGet, other+"/v1/users/"+u.ID, "", token); err != nil {
				b.Fatal(err)
			}
		}
	}
	return c
}

// run writes at a rate, whether or not earlier writes are through, and returns the lags for each other region and the rate that was reached.
func (c *lagClient) run(b *testing.B, rate int) (lags [][]time.Duration, achieved float64) {
	b.Helper()
	ctx := b.Context()
	n := max(1, int(each.Seconds()*float64(rate)))
	lags = make([][]time.Duration, len(c.others))
	for i := range lags {
		lags[i] = make([]time.Duration, n)
	}
	errs := make([]error, n)
	var samples sync.WaitGroup
	began := time.Now()
	for i := range n {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate)) // what was late is caught up
		<-time.After(time.Until(due))
		samples.Go(func() {
			var took []time.Duration
			if took, errs[i] = c.sample(ctx, c.users[i%len(c.users)], fmt.Sprintf("John %d %d", rate, i)); errs[i] == nil {
				for j := range took {
					lags[j][i] = took[j]
				}
			}
		})
	}
	achieved = float64(n) / time.Since(began).Seconds()
	samples.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return lags, achieved
}

// sample writes once and waits in all other regions at the same time.
func (c *lagClient) sample(ctx context.Context, user, name string) ([]time.Duration, error) {
	_, token, err := c.call(ctx, http.MethodPatch, c.here+"/v1/users/"+user, `{"firstName":"`+name+`"}`, "")
	if err != nil {
		return nil, err
	}
	committed := time.Now()
	took, errs := make([]time.Duration, len(c.others)), make([]error, len(c.others))
	var reads sync.WaitGroup
	for i, other := range c.others {
		reads.Go(func() {
			_, _, errs[i] = c.call(ctx, http.MethodGet, other+"/v1/users/"+user, "", token)
			took[i] = time.Since(committed)
		})
	}
	reads.Wait()
	return took, errors.Join(errs...)
}

// call makes a request that must succeed. A GET that the region could not satisfy in its own patience is asked again, so that what took longest counts as well.
func (c *lagClient) call(ctx context.Context, method, where, body, token string) (answer []byte, newToken string, err error) {
	for deadline := time.Now().Add(time.Minute); ; {
		req, err := http.NewRequestWithContext(ctx, method, "http://"+where, strings.NewReader(body))
		if err != nil {
			return nil, "", err
		}
		authorization, err := c.admin.Authorization(ctx)
		if err != nil {
			return nil, "", err
		}
		req.Header.Set("authorization", authorization)
		if token != "" {
			req.Header.Set("antipode-token", token)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return nil, "", err
		}
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil:
			return nil, "", err
		case resp.StatusCode == http.StatusOK:
			return answer, resp.Header.Get("antipode-token"), nil
		case method != http.MethodGet || !bytes.Contains(answer, []byte(`"token_ahead"`)) || time.Now().After(deadline):
			return nil, "", fmt.Errorf("%s %s: %d %s", method, where, resp.StatusCode, answer)
		}
	}
}
