package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
)

// HTTP is a component that serves HTTP at an address, host:port. server is called when it starts. stopping, unless nil, is called before it is shut down, to end the requests that do not end by themselves.
func HTTP(name, address string, server func() *http.Server, stopping func()) Component {
	var s *http.Server
	var listener net.Listener
	return Component{
		Name: name,
		Start: func(ctx context.Context) (err error) {
			s = server()
			if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", address); err != nil {
				return fmt.Errorf("listen: %w", err)
			}
			return nil
		},
		Run: func(context.Context) error {
			if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve: %w", err)
			}
			return nil
		},
		Stop: func(ctx context.Context) error {
			if stopping != nil {
				stopping()
			}
			return s.Shutdown(ctx)
		},
	}
}
