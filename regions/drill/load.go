package drill

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"antipode.example/regions/caller"
)

// fields of a shared user, one for the clients of each region, in the order of Config.Regions: so each has one writer, and all regions write each user at once.
var fields = []string{"firstName", "lastName", "displayName"}

const (
	// createShare of the writes make a user, readShare of the acknowledged updates are read again in another region.
	createShare, readShare = 0.3, 0.2
	// inFlight bounds the writes under way in a region; what is due beyond it is counted as stalled.
	inFlight = 100
	// prepareLimit is how long a region may take to get a user that was made in another.
	prepareLimit = time.Minute
)

// Config says what is written. Rate and Users default to 10 and 30.
type Config struct {
	// As is the administrator who changes and reads users. Whoever signs up is nobody.
	As *caller.Session
	// Regions that are written to, at most three.
	Regions []Region
	// Rate is writes per second and region, whether or not earlier ones have been answered.
	Rate float64
	// Users are changed by the clients of all regions, each a field of its own.
	Users int
	// Remote is the share of writes, from 0 to 1, that ask for the durability "remote".
	Remote float64
	Seed   uint64
}

// Load writes until it is stopped.
type Load struct {
	cfg    Config
	ledger *Ledger
	anyone *caller.Client
	shared []string // ids

	stop    context.CancelFunc
	writers sync.WaitGroup

	mu      sync.Mutex
	stalled int
	stale   []Stale
	denied  []Denial

	devices   []*device
	signedOut []string
}

// Stale is a read that went back behind the causal token that it carried: what must never happen.
type Stale struct {
	Region, User, Field string
	Want, Shows         string
}

// Denial is a read that a region did not allow the caller, who may read everything.
type Denial struct {
	Region, Answer string
	At             time.Duration // on the clock of the ledger
}

// Start makes the shared users, waits until every region has them, signs a user in in each region, and begins to write, and to renew these users' access tokens. Its writes end with Stop, or when ctx ends.
func Start(ctx context.Context, cfg Config, ledger *Ledger) (*Load, error) {
	if len(cfg.Regions) == 0 || len(cfg.Regions) > len(fields) {
		return nil, fmt.Errorf("a load writes to 1 to %d regions, not %d", len(fields), len(cfg.Regions))
	}
	if cfg.As == nil {
		return nil, errors.New("a load is written by an administrator, and there is none")
	}
	if cfg.Rate <= 0 {
		cfg.Rate = 10
	}
	if cfg.Users <= 0 {
		cfg.Users = 30
	}
	l := &Load{cfg: cfg, ledger: ledger, anyone: caller.NewClient()}
	if err := errors.Join(l.prepare(ctx), l.signIn(ctx)); err != nil {
		return nil, err
	}
	ctx, l.stop = context.WithCancel(ctx)
	for i := range cfg.Regions {
		l.writers.Go(func() { l.write(ctx, i) })
		l.writers.Go(func() { l.stay(ctx, l.devices[i]) })
	}
	return l, nil
}

// Stop ends the load; what is under way gets its answer first. It may be called again.
func (l *Load) Stop() {
	l.stop()
	l.writers.Wait()
}

// Stalled is how many writes were due while too many were under way.
func (l *Load) Stalled() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled
}

// Stale are the reads that went back behind their token.
func (l *Load) Stale() []Stale {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Stale(nil), l.stale...)
}

// Denied are the reads that were not allowed. Writes that were not are in the ledger.
func (l *Load) Denied() []Denial {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Denial(nil), l.denied...)
}

func (l *Load) prepare(ctx context.Context) error {
	for i := range l.cfg.Users {
		r := l.cfg.Regions[i%len(l.cfg.Regions)]
		w, a := l.create(ctx, r, Write{Region: r.Name, Kind: Create, Value: "shared", Asked: "local"})
		if w.Outcome != Acked {
			return fmt.Errorf("make a user in %s: %s, %s %s", r.Name, w.Outcome, w.Reason, a.Body)
		}
		l.shared = append(l.shared, w.User)
	}
	for _, user := range l.shared {
		for _, r := range l.cfg.Regions {
			if err := l.awaitUser(ctx, r, user); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitUser waits until a region has a user.
func (l *Load) awaitUser(ctx context.Context, r Region, user string) error {
	ctx, cancel := context.WithTimeout(ctx, prepareLimit)
	defer cancel()
	for {
		shown, err := show(ctx, l.cfg.As, r, user)
		if err != nil {
			return err
		}
		if shown != "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s has user %s: %w", r.Name, user, context.Cause(ctx))
		case <-time.After(readPause):
		}
	}
}

// session is what the clients of one region know of one shared user. It is used by one write at a time.
type session struct {
	user, token string
	n           int
}

// write is the load on one region. It has a source of chance of its own, so that a seed says what is written, if not when.
func (l *Load) write(ctx context.Context, i int) {
	r := l.cfg.Regions[i]
	chance := rand.New(rand.NewPCG(l.cfg.Seed, uint64(i))) //nolint:gosec // a workload, not a secret
	idle := make(chan *session, len(l.shared))
	for _, at := range chance.Perm(len(l.shared)) {
		idle <- &session{user: l.shared[at]}
	}
	room := make(chan struct{}, inFlight)
	tick := time.NewTicker(time.Duration(float64(time.Second) / l.cfg.Rate))
	defer tick.Stop()
	var requests sync.WaitGroup
	defer requests.Wait()
	// What is under way when the load ends is answered all the same.
	own := context.WithoutCancel(ctx)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		w := Write{Region: r.Name, Asked: "local"}
		if chance.Float64() < l.cfg.Remote {
			w.Asked = "remote"
		}
		creates, reads, elsewhere := chance.Float64() < createShare, chance.Float64() < readShare, chance.IntN(len(l.cfg.Regions))
		select {
		case room <- struct{}{}:
		default:
			l.stall()
			continue
		}
		if creates {
			requests.Go(func() {
				w.Kind, w.Value = Create, fmt.Sprintf("%s-%d", r.Name, n)
				l.create(own, r, w)
				<-room
			})
			continue
		}
		select {
		case s := <-idle:
			requests.Go(func() {
				w.Kind, w.Field = Update, fields[i]
				l.update(own, r, w, s)
				if reads && s.token != "" {
					l.read(own, l.cfg.Regions[elsewhere], fields[i], *s)
				}
				idle <- s
				<-room
			})
		default:
			l.stall()
			<-room
		}
	}
}

func (l *Load) stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stalled++
}

func (l *Load) create(ctx context.Context, r Region, w Write) (Write, caller.Answer) {
	key := strings.ToLower(cryptorand.Text())
	w.Email = key + "@example.com"
	w.Sent = l.ledger.Now()
	a, err := l.anyone.Do(ctx, r, caller.Request{
		Method: http.MethodPost, Path: "/v1/users", Body: fmt.Sprintf(`{"firstName":%q,"email":%q}`, w.Value, w.Email),
		Headers: map[string]string{caller.HeaderKey: key, caller.HeaderDurability: w.Asked},
	})
	w = l.done(w, a, err)
	l.ledger.add(w)
	return w, a
}

func (l *Load) update(ctx context.Context, r Region, w Write, s *session) {
	s.n++
	w.User, w.Value = s.user, fmt.Sprintf("%s-%d", r.Name, s.n)
	w.Sent = l.ledger.Now()
	a, err := l.cfg.As.Do(ctx, r, caller.Request{
		Method: http.MethodPatch, Path: "/v1/users/" + s.user, Body: fmt.Sprintf(`{%q:%q}`, w.Field, w.Value),
		Headers: map[string]string{caller.HeaderToken: s.token, caller.HeaderDurability: w.Asked},
	})
	w = l.done(w, a, err)
	l.ledger.add(w)
	if w.Outcome == Acked {
		s.token = w.Token
	} else {
		s.token = "" // what comes next may not be held against a token from before
	}
}

func (l *Load) done(w Write, a caller.Answer, err error) Write {
	w.Done = l.ledger.Now()
	w.Outcome, w.Reason = outcome(a, err)
	w.RequestID, w.Denied = a.RequestID(), a.Denied()
	if w.Outcome != Acked {
		return w
	}
	w.Token, w.Got = a.Header.Get(caller.HeaderToken), a.Header.Get(caller.HeaderDurability)
	var p profile
	if err := json.Unmarshal(a.Body, &p); err != nil || p.ID == "" {
		w.Outcome, w.Reason = Unknown, "an answer that is no user"
	}
	w.User = p.ID
	return w
}

// read reads with the token of an acknowledged update; what it shows may not be older. Any error will do, but that the caller may not read.
func (l *Load) read(ctx context.Context, r Region, field string, s session) {
	a, err := l.cfg.As.Do(ctx, r, caller.Request{Method: http.MethodGet, Path: "/v1/users/" + s.user, Headers: map[string]string{caller.HeaderToken: s.token}})
	if err == nil && a.Denied() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.denied = append(l.denied, Denial{r.Name, a.Err().Error(), l.ledger.Now()})
		return
	}
	if err != nil || a.Status != http.StatusOK {
		return
	}
	want := fmt.Sprintf("-%d", s.n)
	var p profile
	if err := json.Unmarshal(a.Body, &p); err != nil || !strings.HasSuffix(p.field(field), want) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.stale = append(l.stale, Stale{r.Name, s.user, field, want, p.field(field)})
	}
}
