package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

// TestDrainLosesNothing shuts a server down under load from three kinds of clients. They stop within the lameduck time, as behind a load
// balancer that has seen readiness fail; until then, and for what is in flight then, no request may fail.
func TestDrainLosesNothing(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	u := &users{entered: make(chan struct{}, 16), release: make(chan struct{})}
	server, err := rpc.NewServer(rpc.Config{Log: log, Sealer: sealer(t)})
	if err != nil {
		t.Fatal(err)
	}
	userv1.RegisterUserServiceServer(server, u)
	const lameduck = 200 * time.Millisecond
	drained := make(chan struct{})
	s, err := New(t.Context(), Config{
		Log: log, Server: server, Register: register, Lameduck: lameduck, Drain: func() { close(drained) },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	addr := l.Addr().String()

	conn, err := rpc.NewClient(rpc.ClientConfig{Addresses: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := userv1.NewUserServiceClient(conn)
	h2 := &http.Protocols{}
	h2.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Client{"HTTP/1.1": {Transport: &http.Transport{}}, "h2c": {Transport: &http.Transport{Protocols: h2}}}
	get := func(ctx context.Context, c *http.Client, id string) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/v1/users/"+id, nil)
		if err != nil {
			return 0, err
		}
		resp, err := c.Do(req)
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, err
	}

	var wg, blocked sync.WaitGroup
	answered := map[string]*atomic.Int64{"HTTP/1.1": {}, "h2c": {}, "gRPC": {}}
	load := func(name string, ask func() error) {
		defer wg.Done()
		var stop <-chan time.Time
		noticed := drained
		for {
			select {
			case <-noticed:
				noticed, stop = nil, time.After(lameduck/2)
			case <-stop:
				return
			default:
			}
			if err := ask(); err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			answered[name].Add(1)
		}
	}
	wg.Add(len(answered))
	for name, c := range clients {
		defer c.CloseIdleConnections()
		go load(name, func() error {
			code, err := get(t.Context(), c, "1")
			if err == nil && code != http.StatusOK {
				return fmt.Errorf("status %d", code)
			}
			return err
		})
		blocked.Go(func() {
			if code, err := get(t.Context(), c, "block"); err != nil || code != http.StatusOK {
				t.Errorf("%s in flight: %d %v", name, code, err)
			}
		})
	}
	go load("gRPC", func() error {
		_, err := client.GetUser(t.Context(), &userv1.GetUserRequest{Id: "1"})
		return err
	})
	blocked.Go(func() {
		if _, err := client.GetUser(t.Context(), &userv1.GetUserRequest{Id: "block"}); err != nil {
			t.Errorf("gRPC in flight: %v", err)
		}
	})
	for range 3 {
		<-u.entered
	}
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		down <- s.Shutdown(ctx)
	}()
	<-drained
	if got := connectionHeader(t, addr); got != "close" {
		t.Errorf("while draining, an answer says Connection: %q, want close", got)
	}
	wg.Wait()
	for !refused(addr) {
		runtime.Gosched()
	}
	select {
	case err := <-down:
		t.Fatalf("Shutdown returned with requests in flight: %v", err)
	default:
	}
	close(u.release)
	blocked.Wait()
	if err := <-down; err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	for name, n := range answered {
		if n.Load() == 0 {
			t.Errorf("%s: nothing was answered", name)
		}
	}
}

// connectionHeader is what an answer over a new connection says about it.
func connectionHeader(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /v1/users/1 HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.Close {
		return "close"
	}
	return resp.Header.Get("Connection")
}

// refused reports whether nobody listens any more.
func refused(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return true
	}
	_ = c.Close()
	return false
}

// TestForcedStop shows what Shutdown does when a request does not end: it is cut off, and the handler has returned.
func TestForcedStop(t *testing.T) {
	f := start(t)
	done := make(chan error, 1)
	go func() {
		_, err := f.client.GetUser(t.Context(), &userv1.GetUserRequest{Id: "slow"})
		done <- err
	}()
	for f.users.called() == 0 {
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.server.Shutdown(ctx); err == nil {
		t.Error("Shutdown does not say that it cut a request off")
	}
	if err := <-done; err == nil || fault.FromStatus(err).Kind == fault.NotFound {
		t.Errorf("the request was answered: %v", err)
	}
}
