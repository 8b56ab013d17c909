package door_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/regions/door"
)

func TestDatagrams(t *testing.T) {
	t.Parallel()
	echo, err := net.ListenPacket("udp4", anyPort.String())
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		packet := make([]byte, 1<<16)
		for {
			n, from, err := echo.ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = echo.WriteTo([]byte(strings.ToUpper(string(packet[:n]))), from)
		}
	})
	t.Cleanup(func() { _ = echo.Close(); serving.Wait() })
	addr, _ := echo.LocalAddr().(*net.UDPAddr)
	d, err := door.OpenDatagrams(t.Context(), door.Config{
		Listen: anyPort, Target: addr.AddrPort(), Dial: new(net.Dialer).DialContext, Log: slog.New(slog.DiscardHandler), MaxConns: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	clients := make([]net.Conn, 3)
	for i := range clients {
		if clients[i], err = net.Dial("udp4", d.Addr().String()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = clients[i].Close() })
	}
	long := strings.Repeat("x", 9000)
	for _, say := range []string{"a", "b", long} {
		for i, c := range clients[:2] {
			if got, err := exchange(c, say, 10*time.Second); err != nil || got != strings.ToUpper(say) {
				t.Errorf("client %d got %.20q, %v", i, got, err)
			}
		}
	}
	// The door has room for two; what a third sends is lost, and the others don't notice.
	if got, err := exchange(clients[2], "c", 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one sender too many got %q, %v", got, err)
	}
	if got, err := exchange(clients[0], "d", 10*time.Second); err != nil || got != "D" {
		t.Errorf("after that, a client got %q, %v", got, err)
	}
}

func exchange(c net.Conn, say string, limit time.Duration) (string, error) {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	if _, err := c.Write([]byte(say)); err != nil {
		return "", err
	}
	packet := make([]byte, 1<<16)
	n, err := c.Read(packet)
	return string(packet[:n]), err
}
