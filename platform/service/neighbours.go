package service

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"antipode.example/platform/auth"
	"antipode.example/platform/rpc"
)

// neighbours are the connections to the other services of the region. It is safe for concurrent use.
type neighbours struct {
	addresses   map[string][]string // by service
	credentials *auth.Credentials
	tracer      trace.TracerProvider

	mu   sync.Mutex
	open []*grpc.ClientConn
}

func newNeighbours(own string, services []Neighbour, keys *auth.Keys, tracer trace.TracerProvider) *neighbours {
	n := &neighbours{addresses: map[string][]string{}, credentials: auth.ServiceCredentials(keys, own), tracer: tracer}
	for _, s := range services {
		n.addresses[s.Name] = s.Addresses
	}
	return n
}

// connect is Parts.Service.
func (n *neighbours) connect(name string, retrySafe ...string) (grpc.ClientConnInterface, error) {
	addresses, ok := n.addresses[name]
	if !ok {
		return nil, fmt.Errorf("connect to the service %q: the configuration does not name it; it names %q", name, slices.Sorted(maps.Keys(n.addresses)))
	}
	conn, err := rpc.NewClient(rpc.ClientConfig{Addresses: addresses, Spread: true, RetrySafe: retrySafe, Tracer: n.tracer, Credentials: n.credentials})
	if err != nil {
		return nil, fmt.Errorf("connect to the service %q: %w", name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open = append(n.open, conn)
	return conn, nil
}

func (n *neighbours) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	errs := make([]error, len(n.open))
	for i, conn := range n.open {
		errs[i] = conn.Close()
	}
	n.open = nil
	return errors.Join(errs...)
}
