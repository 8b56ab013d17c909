package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"antipode.example/platform/auth"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
)

const (
	// probeTimeout bounds each path of a probe.
	probeTimeout = time.Second
	// settingUp bounds one attempt to sign canaries up, which asks a majority of regions several times.
	settingUp = 10 * time.Second
	// mostAnswer bounds what is read of an answer, in bytes.
	mostAnswer = 64 << 10
)

// Probe asks one region whether it serves, by the way that clients go.
type Probe interface {
	// Cheap asks every service something that costs nothing.
	Cheap(ctx context.Context) error
	// Deep writes and reads back on every shard. errUnprepared says that nothing can be said yet, and that it is not the region's fault.
	Deep(ctx context.Context) error
	// Run prepares what Deep needs, until ctx ends.
	Run(ctx context.Context)
}

// errUnprepared: a deep probe has no canaries yet.
var errUnprepared = errors.New("there are no canaries yet")

// regionProbe probes a region through its balancer. Its canaries are users of its own, one on each shard: two observers that wrote to one user, or one that wrote to one user in two regions, would make conflicts.
type regionProbe struct {
	observer string
	region   RegionConfig
	services []ServiceConfig
	keys     *auth.Keys
	http     *http.Transport

	canaries canaries
}

func newProbe(cfg *Config, region RegionConfig, keys *auth.Keys) *regionProbe {
	return &regionProbe{
		observer: cfg.Region, region: region, services: cfg.Services, keys: keys,
		http: &http.Transport{
			DialContext: (&net.Dialer{Timeout: probeTimeout}).DialContext, MaxIdleConnsPerHost: len(cfg.Services) + region.Shards, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
		},
		canaries: canaries{need: make(chan struct{}, 1), err: errUnprepared},
	}
}

// Cheap asks each service for something for which it needs an access token, without one. That an instance refuses it, and not the balancer for it, shows that the balancer finds an instance and that this answers; it touches
// no database, and has some hundred bytes (the OpenAPI document, which is open to all, has 76 KB, and only the first service answers for it).
func (p *regionProbe) Cheap(ctx context.Context) error {
	return each(len(p.services), func(i int) error {
		a, err := p.ask(ctx, http.MethodGet, p.services[i].Path, nil, nil)
		if err != nil {
			return err
		}
		if a.status != http.StatusUnauthorized || a.reason() != "unauthenticated" {
			return fmt.Errorf("GET %s: %w", p.services[i].Path, a.unexpected())
		}
		return nil
	})
}

// Deep changes the canary of each shard and reads it back, covered by the causal token of the change.
func (p *regionProbe) Deep(ctx context.Context) error {
	users, mark, err := p.canaries.get()
	if err != nil {
		return err
	}
	return each(len(users), func(i int) error {
		if err := p.sing(ctx, users[i], mark); err != nil {
			return fmt.Errorf("shard %d: %w", i+1, err)
		}
		return nil
	})
}

func (p *regionProbe) sing(ctx context.Context, user id.ID, mark string) error {
	token, _, err := p.keys.IssueUser(auth.Grant{User: user, Session: user}) // no session: the id stands for one
	if err != nil {
		return err
	}
	headers := map[string]string{"authorization": "Bearer " + token}
	path := "/v1/users/" + user.String()
	wrote, err := p.ask(ctx, http.MethodPatch, path, map[string]string{"displayName": mark}, headers)
	if err != nil {
		return err
	}
	if wrote.status == http.StatusNotFound {
		p.canaries.lose(errUnprepared)
	}
	if wrote.status != http.StatusOK {
		return fmt.Errorf("PATCH of a canary: %w", wrote.unexpected())
	}
	headers["antipode-token"] = wrote.token
	read, err := p.ask(ctx, http.MethodGet, path, nil, headers)
	if err != nil {
		return err
	}
	var is struct {
		DisplayName string `json:"displayName"`
	}
	if err := json.Unmarshal(read.body, &is); read.status != http.StatusOK || err != nil {
		return fmt.Errorf("GET of a canary: %w", read.unexpected())
	}
	if is.DisplayName != mark {
		return fmt.Errorf("GET of a canary: is %q, was just written as %q", is.DisplayName, mark)
	}
	return nil
}

// Run signs canaries up whenever there are none, again and again until it succeeds.
func (p *regionProbe) Run(ctx context.Context) {
	defer p.http.CloseIdleConnections()
	for p.canaries.await(ctx) {
		limited, cancel := context.WithTimeout(ctx, settingUp)
		users, err := p.signUp(limited)
		cancel()
		if err == nil {
			p.canaries.set(users)
			continue
		}
		p.canaries.lose(err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(probeTimeout):
		}
	}
}

// signUp makes a user on each shard. The keys of the sign-ups are always the same, so each has one effect, whenever and however often it is repeated: a controller that starts again finds the users of its predecessor.
func (p *regionProbe) signUp(ctx context.Context) ([]id.ID, error) {
	users := make([]id.ID, p.region.Shards)
	missing := len(users)
	for n := 0; missing > 0; n++ {
		if n > mostTries*len(users) {
			return nil, fmt.Errorf("sign canaries up: after %d there are %d shards without", n, missing)
		}
		name := fmt.Sprintf("canary-%d.%s.%s", n, p.observer, p.region.Name)
		a, err := p.ask(ctx, http.MethodPost, "/v1/users", map[string]string{"email": name + "@canary.invalid", "lastName": "Canary"}, map[string]string{"idempotency-key": name})
		switch {
		case err != nil:
			return nil, err
		case a.status == http.StatusNotFound: // somebody has deleted it
			continue
		case a.reason() == "no_quorum":
			return nil, fmt.Errorf("%w: signing them up needs a majority of regions", errUnprepared)
		case a.status != http.StatusOK:
			return nil, fmt.Errorf("sign-up of a canary: %w", a.unexpected())
		}
		var made struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(a.body, &made); err != nil {
			return nil, fmt.Errorf("sign-up of a canary: %w", err)
		}
		user, err := id.Parse(made.ID)
		if err != nil {
			return nil, fmt.Errorf("sign-up of a canary: %w", err)
		}
		if i := shardOf(user, len(users)); users[i].IsZero() {
			users[i] = user
			missing--
		}
	}
	return users, nil
}

// mostTries bounds the sign-ups for each shard: where they go is chance.
const mostTries = 32

// shardOf is the shard, of n, that owns a user at first.
func shardOf(user id.ID, n int) int {
	for i := range n {
		if _, end := shard.Range(i, n); int(user.Slot()) < end {
			return i
		}
	}
	return n - 1
}

// answer is what a region has answered.
type answer struct {
	status int
	token  string
	body   []byte
}

func (a answer) reason() string {
	var p struct {
		Reason string `json:"reason"`
	}
	if json.Unmarshal(a.body, &p) != nil {
		return ""
	}
	return p.Reason
}

func (a answer) unexpected() error {
	return fmt.Errorf("the answer is %d %s", a.status, a.reason())
}

// ask makes a request. Connections are used again, and none that was there before when one has failed: others may be dead with it, and the next probe is not to find out.
func (p *regionProbe) ask(ctx context.Context, method, path string, body any, headers map[string]string) (answer, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return answer{}, fmt.Errorf("write a request: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.region.Front+path, bytes.NewReader(text))
	if err != nil {
		return answer{}, fmt.Errorf("make a request: %w", err)
	}
	req.Header.Set("user-agent", "antipode-probe/"+p.observer)
	if body != nil {
		req.Header.Set("content-type", "application/json")
	}
	for name, value := range headers {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	a, err := p.trip(req)
	if err != nil {
		p.http.CloseIdleConnections()
		return answer{}, fmt.Errorf("%s %s: %w", method, path, brief(err))
	}
	return a, nil
}

func (p *regionProbe) trip(req *http.Request) (answer, error) {
	resp, err := p.http.RoundTrip(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return answer{}, err
	}
	return answer{resp.StatusCode, resp.Header.Get("antipode-token"), text}, nil
}

// brief is an error without addresses of this end, which differ each time: it is read in votes and audits.
func brief(err error) error {
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return errNoAnswer
	case errors.As(err, &op):
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}

var errNoAnswer = errors.New("no answer in time")
