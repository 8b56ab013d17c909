package auth

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

// following runs a follower of p in a bubble until the test ends, and returns what lets time pass.
func following(t *testing.T, f *Follower, conn *pipe) (wait func(time.Duration)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		conn.cut()
		<-done
	})
	c, _ := f.cfg.Clock.(*clock)
	return func(d time.Duration) {
		c.forward(d)
		time.Sleep(d) //nolint:forbidigo // synctest's time
		synctest.Wait()
	}
}

func sessions(from, to int, at time.Time) []Revocation {
	var all []Revocation
	for i := from; i < to; i++ {
		all = append(all, EndedSession(newID(fmt.Sprint(i)), at))
	}
	return all
}

func TestKnowledge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		p := newPublisher(t, c, false)
		began := c.Now()
		if err := p.Add(sessions(0, 2500, began)...); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		reader := metric.NewManualReader()
		var pages []string
		conn := &pipe{publisher: p, edit: func(m *authv1.WatchResponse) {
			pages = append(pages, fmt.Sprint(len(m.GetRevocations()), m.GetComplete()))
		}}
		f, err := NewFollower(FollowerConfig{
			Source: "session", Conn: conn, Clock: c, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Meter: metric.NewMeterProvider(metric.WithReader(reader)).Meter("test"),
		})
		if err != nil {
			t.Fatal(err)
		}
		gauge := func(name string) int64 { return values(t, reader, "antipode.auth.revocations."+name)["source=session"] }
		wait := following(t, f, conn)
		wait(10 * time.Second)
		if _, known := f.Age(); known || gauge("known") != 0 || gauge("breaks") == 0 || f.set.Len() != 0 {
			t.Error("a publisher that does not know yet was believed")
		}
		if strings.Count(log.String(), "signatures alone") != 1 {
			t.Errorf("logged:\n%s", log.String())
		}
		p.Loaded()
		wait(maxPause)
		if age, known := f.Age(); !known || age >= keepAlive || gauge("known") != 1 || gauge("entries") != 2500 {
			t.Errorf("known: %t, for %s, %d entries", known, age, f.set.Len())
		}
		if !strings.Contains(log.String(), "followed again") {
			t.Errorf("logged:\n%s", log.String())
		}
		if want := []string{"1000 false", "1000 false", "500 false", "0 true"}; len(pages) < len(want) || !slices.Equal(pages[:len(want)], want) {
			t.Errorf("the set came as %v", pages)
		}
		// News come at once, and only then.
		pages = nil
		if err := p.Add(sessions(2490, 2510, began)...); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !slices.Equal(pages, []string{"10 true"}) || f.set.Len() != 2510 {
			t.Errorf("news came as %v", pages)
		}
		// Idle, it is told every second that there is nothing.
		wait(time.Minute)
		if age, _ := f.Age(); age >= keepAlive+keepAlive/2 {
			t.Errorf("after a minute of peace the knowledge is %s old", age)
		}
		// Cut, its knowledge grows old and stays.
		conn.cut()
		wait(time.Hour)
		if age, known := f.Age(); !known || age < time.Hour || gauge("age") < time.Hour.Milliseconds() || f.set.Len() != 2510 {
			t.Errorf("after an hour of silence: known: %t, for %s, %d entries", known, age, f.set.Len())
		}
		if strings.Count(log.String(), "those that are known stay") != 1 {
			t.Errorf("logged:\n%s", log.String())
		}
	})
}

func TestSlowReadersAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		reader := metric.NewManualReader()
		p, err := NewPublisher(PublisherConfig{Clock: c, Meter: metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")})
		if err != nil {
			t.Fatal(err)
		}
		p.Loaded()
		conn, other := &pipe{publisher: p}, &pipe{publisher: p}
		f, fast := newFollower(t, conn, c), newFollower(t, other, c)
		until := make(chan struct{})
		conn.stall(until)
		following(t, f, conn)
		wait := following(t, fast, other)
		synctest.Wait()
		for i := range 20 {
			if err := p.Add(sessions(i*1000, (i+1)*1000, c.Now())...); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if p.watching() != 1 || fast.set.Len() != 20_000 {
			t.Errorf("%d streams are left, and the fast follower has %d", p.watching(), fast.set.Len())
		}
		if cut := values(t, reader, "antipode.auth.published.cut")[""]; cut != 1 {
			t.Errorf("%d were cut", cut)
		}
		conn.stall(nil)
		close(until)
		wait(maxPause)
		if f.set.Len() != 20_000 || p.watching() != 2 {
			t.Errorf("the slow follower has %d in the end", f.set.Len())
		}
	})
}

// A stream on which nothing comes is given up, although nobody has said that it is broken.
func TestSilentStreamsAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		p := newPublisher(t, c, true)
		conn := &pipe{publisher: p}
		f := newFollower(t, conn, c)
		conn.stall(make(chan struct{}))
		wait := following(t, f, conn)
		wait(silence - time.Millisecond)
		conn.stall(nil)
		if _, known := f.Age(); known {
			t.Fatal("something was heard on a stalled stream")
		}
		wait(time.Second)
		if _, known := f.Age(); !known {
			t.Error("the stream was not given up")
		}
	})
}

// A publisher that has forgotten, and one that cannot be reached, takes nothing from those who follow it.
func TestPublisherThatForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		p := newPublisher(t, c, true)
		if err := p.Add(sessions(0, 10, c.Now())...); err != nil {
			t.Fatal(err)
		}
		conn := &pipe{publisher: p}
		f := newFollower(t, conn, c)
		wait := following(t, f, conn)
		wait(time.Second)
		again := newPublisher(t, c, false)
		conn.cut()
		conn.publisher = again
		conn.heal()
		for _, what := range []string{"does not know yet", "knows of nothing"} {
			wait(time.Minute)
			if f.set.Len() != 10 {
				t.Errorf("a publisher that %s has left %d", what, f.set.Len())
			}
			again.Loaded()
		}
	})
}

// What a later version revokes in ways that are not known here is left out, and nothing else.
func TestStrangeRevocations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		p := newPublisher(t, c, true)
		conn := &pipe{publisher: p, edit: func(m *authv1.WatchResponse) {
			if len(m.GetRevocations()) > 0 {
				m.Revocations = append([]*authv1.Revocation{{}, {What: &authv1.Revocation_SessionId{SessionId: []byte("short")}}}, m.GetRevocations()...)
				m.Revocations = append(m.Revocations, &authv1.Revocation{ExpireUnixMs: 1 << 60, What: &authv1.Revocation_Requirement{
					Requirement: &authv1.Requirement{UserId: idBytes("bob"), Service: "asset"},
				}})
			}
		}}
		f := newFollower(t, conn, c)
		following(t, f, conn)
		synctest.Wait()
		if err := p.Add(EndedSession(newID("s"), c.Now())); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		bob := &Claims{Grant: Grant{User: newID("bob"), SessionVector: alice().SessionVector}}
		if !f.set.Dead(&Claims{Grant: Grant{Session: newID("s")}}) || f.set.Len() != 2 {
			t.Errorf("%d entries", f.set.Len())
		}
		bob.SessionVector = nil
		if f.set.Dead(bob) {
			t.Error("the bottom write is not covered") // of a strange service, but every token covers it
		}
	})
}

func idBytes(name string) []byte {
	one := newID(name)
	return one[:]
}

func TestClosedPublisher(t *testing.T) {
	p := newPublisher(t, newClock(), true)
	_, conn, _ := listen(t, p)
	stream, err := authv1.NewRevocationServiceClient(conn).Watch(t.Context(), &authv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || !m.GetComplete() {
		t.Fatalf("got %v, %v", m, err)
	}
	p.Close()
	p.Close()
	for err == nil {
		_, err = stream.Recv()
	}
	if got := fault.FromStatus(err); got.Kind != fault.Draining {
		t.Errorf("got %v", err)
	}
	if _, err := p.join(); fault.From(err).Kind != fault.Draining {
		t.Errorf("got %v", err)
	}
}

// link is a network that tests can cut.
type link struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (l *link) dial(ctx context.Context, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		_ = c.Close()
		return nil, fmt.Errorf("%s is cut off", address)
	}
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *link) set(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	if down {
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.conns = nil
	}
}

// listen serves a publisher over gRPC and returns a connection to it, over a link.
func listen(t *testing.T, p *Publisher) (*rpc.Server, *grpcConn, *link) {
	t.Helper()
	return serve(t, rpc.Config{}, rpc.ClientConfig{}, func(s *rpc.Server) { authv1.RegisterRevocationServiceServer(s, p) })
}

func TestWatchOverGRPC(t *testing.T) {
	c := newClock()
	p := newPublisher(t, c, true)
	add := func(all ...Revocation) {
		t.Helper()
		if err := p.Add(all...); err != nil {
			t.Fatal(err)
		}
	}
	add(sessions(0, 3000, c.Now())...)
	_, conn, link := listen(t, p)
	f := newFollower(t, conn, c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	equal := func() bool { return slices.Equal(contents(f.set, c.Now()), contents(p.set, c.Now())) }
	eventually(t, "the snapshot", equal)
	add(DeletedUser(newID("alice"), c.Now(), replica(1)))
	eventually(t, "news", equal)
	link.set(true)
	eventually(t, "the break is noticed", func() bool { return p.watching() == 0 })
	add(sessions(3000, 3010, c.Now())...)
	if equal() || f.set.Len() != 3001 {
		t.Errorf("cut off, the follower has %d", f.set.Len())
	}
	link.set(false)
	eventually(t, "what came meanwhile", equal)
	cancel()
	<-done
	eventually(t, "the stream has ended", func() bool { return p.watching() == 0 })
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("does not come: %s", what)
		}
	}
}
