package network_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"antipode.example/regions/netns"
	"antipode.example/regions/network"
	"antipode.example/regions/topology"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// up makes and runs the network of a lab for one test.
func up(t *testing.T, lab, topo string) (*network.Network, *topology.Topology) {
	t.Helper()
	if err := netns.Supported(); err != nil {
		t.Skip(err)
	}
	top, err := topology.Load(topo)
	if err != nil {
		t.Fatal(err)
	}
	n, err := network.Create(lab, top, 1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if _, err := network.Remove(lab); err != nil {
			t.Error(err)
		}
	})
	return n, top
}

func TestRoundTripBetweenRegions(t *testing.T) {
	n, top := up(t, "testrtt", "two")
	east, _ := top.Region("us-east")
	west, _ := top.Region("eu-west")
	l, err := n.Namespace("eu-west").Listen(t.Context(), "tcp4", net.JoinHostPort(west.Front().String(), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(c, c)
		c.Close()
	}()
	t.Cleanup(func() { l.Close(); <-echoed })
	d := netns.Dialer{Namespace: n.Namespace("us-east"), From: east.Instance(0), Timeout: 5 * time.Second}
	start := time.Now()
	c, err := d.DialContext(t.Context(), "tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Logf("connect took %v", time.Since(start))
	buf := make([]byte, 1)
	for range 20 {
		start = time.Now()
		if _, err := c.Write(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		t.Logf("round trip %v", time.Since(start))
	}
}
