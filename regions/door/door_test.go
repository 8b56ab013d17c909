package door_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/regions/door"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var anyPort = netip.MustParseAddrPort("127.0.0.1:0")

// serve opens a door for one test; stop ends it and waits.
func serve(t *testing.T, c door.Config) (d *door.Door, stop func()) {
	t.Helper()
	c.Listen = anyPort
	c.Log = slog.New(slog.DiscardHandler)
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	d, err := door.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return d, stop
}

// target listens and gives each connection to handle.
func target(t *testing.T, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", anyPort.String())
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handlers.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); handlers.Wait() })
	return netip.MustParseAddrPort(l.Addr().String())
}

func connect(t *testing.T, d *door.Door) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// The client ends its stream first and still gets all of the answer, which is made of all that it sent.
func TestHalfClose(t *testing.T) {
	d, _ := serve(t, door.Config{Target: target(t, func(c *net.TCPConn) {
		all, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(all)
		}
	})})
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	c := connect(t, d)
	go func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("got %d bytes back, %v, want the %d that were sent", len(got), err, len(sent))
	}
}

// The target ends its stream first and still gets what the client sends then.
func TestHalfCloseByTarget(t *testing.T) {
	heard := make(chan string, 1)
	d, _ := serve(t, door.Config{Target: target(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("bye"))
		_ = c.CloseWrite()
		all, _ := io.ReadAll(c)
		heard <- string(all)
	})})
	c := connect(t, d)
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if got := <-heard; got != "still here" {
		t.Errorf("target heard %q", got)
	}
}

func TestResets(t *testing.T) {
	resetting := target(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0)
	})
	refused := target(t, func(*net.TCPConn) {})
	for name, c := range map[string]door.Config{
		"the target resets": {Target: resetting},
		"dialing fails": {Target: refused, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("no such host")
		}},
		"the target is silent": {Target: refused, DialTimeout: 50 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := serve(t, c)
			c, err := net.Dial("tcp4", d.Addr().String())
			if err == nil { // else the reset came while connecting
				defer c.Close()
				_, _ = c.Write([]byte("x"))
				_, err = c.Read(make([]byte, 1))
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	}
}

func TestClientResetReachesTarget(t *testing.T) {
	got := make(chan error, 1)
	d, _ := serve(t, door.Config{Target: target(t, func(c *net.TCPConn) {
		_, _ = c.Write([]byte("x"))
		_, err := c.Read(make([]byte, 1))
		got <- err
	})})
	c := connect(t, d)
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetLinger(0)
	_ = c.Close()
	if err := <-got; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("target got %v, want a reset", err)
	}
}

func TestBound(t *testing.T) {
	var open, most atomic.Int32
	d, _ := serve(t, door.Config{MaxConns: 3, Target: target(t, func(c *net.TCPConn) {
		if now := open.Add(1); now > most.Load() {
			most.Store(now)
		}
		_, _ = io.Copy(c, c)
		open.Add(-1)
	})})
	var clients sync.WaitGroup
	for range 20 {
		c := connect(t, d)
		clients.Go(func() {
			_, _ = c.Write([]byte("x"))
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		})
	}
	clients.Wait()
	if most.Load() > 4 { // a handler may start while that of a connection that has ended still returns
		t.Errorf("%d connections at a time, want 3", most.Load())
	}
}

func TestStop(t *testing.T) {
	d, stop := serve(t, door.Config{Target: target(t, func(c *net.TCPConn) { _, _ = io.Copy(c, c) })})
	began, ended := make(chan struct{}), make(chan struct{})
	dialing, stopDialing := serve(t, door.Config{Target: anyPort, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(began)
		<-ctx.Done()
		<-time.After(50 * time.Millisecond)
		close(ended)
		return nil, ctx.Err()
	}})
	clients := []*net.TCPConn{connect(t, d), connect(t, d), connect(t, dialing)}
	for _, c := range clients[:2] {
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	<-began
	stop()
	stopDialing()
	select {
	case <-ended:
	default:
		t.Error("Serve returned before a connection had ended")
	}
	for _, c := range clients {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client reads %v, want a reset", err)
		}
	}
	if c, err := net.Dial("tcp4", d.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the door is still open")
	}
}

func TestOpenFails(t *testing.T) {
	d, _ := serve(t, door.Config{Target: anyPort})
	if _, err := door.Open(t.Context(), door.Config{Listen: d.Addr()}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Open of an address that is taken: %v", err)
	}
}

func TestCloseWithoutServe(t *testing.T) {
	d, err := door.Open(t.Context(), door.Config{Listen: anyPort})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Serve(t.Context()); err == nil {
		t.Error("Serve of a closed door returned no error")
	}
}
