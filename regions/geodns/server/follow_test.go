package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"antipode.example/regions/snapshot"
)

// script answers requests without a network, so that time can be made up: by host, a function that writes the stream.
type script map[string]func(ctx context.Context, w io.Writer) error

func (s script) RoundTrip(r *http.Request) (*http.Response, error) {
	stream := s[r.URL.Host]
	if stream == nil {
		return nil, errors.New("nobody is there")
	}
	if r.URL.Path != "/v1/snapshots" {
		return &http.Response{StatusCode: http.StatusNotFound, Status: "404 Not Found", Body: http.NoBody}, nil
	}
	from, to := io.Pipe()
	go func() {
		<-r.Context().Done()
		to.CloseWithError(r.Context().Err())
	}()
	go func() { to.CloseWithError(stream(r.Context(), to)) }()
	return &http.Response{StatusCode: http.StatusOK, Body: from}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// every writes a line each time that d has passed, and ends after n of them; never with n < 0.
func every(d time.Duration, n int, line func() string) func(context.Context, io.Writer) error {
	return func(ctx context.Context, w io.Writer) error {
		for i := 0; i != n; i++ {
			if _, err := fmt.Fprintln(w, line()); err != nil {
				return err
			}
			if err := pause(ctx, d); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestFollow: the controllers that are heard, second by second, when those before them fail in every way that there is.
func TestFollow(t *testing.T) {
	good := func(name string) func() string { return func() string { return name } }
	hang := func(ctx context.Context, _ io.Writer) error { return pause(ctx, time.Hour) }
	const forever = -1
	for _, tc := range []struct {
		what   string
		script script
		// want are the controllers that are heard, with the time at which each begins.
		want string
	}{
		{"all is well", script{"a": every(time.Second, forever, good("a")), "b": every(time.Second, forever, good("b"))}, "a 0s"},
		{"the first is not there", script{"b": every(time.Second, forever, good("b"))}, "b 250ms"},
		{"the first is silent from the start", script{"a": hang, "b": every(time.Second, forever, good("b"))}, "b 3.25s"},
		{"the first ends at once", script{"a": every(0, 0, nil), "b": every(time.Second, forever, good("b"))}, "b 250ms"},
		{"the first ends after 5 lines", script{"a": every(time.Second, 5, good("a")), "b": every(time.Second, forever, good("b"))}, "a 0s, b 5s"},
		{"the first falls silent", script{"a": func(ctx context.Context, w io.Writer) error {
			return errors.Join(every(time.Second, 5, good("a"))(ctx, w), hang(ctx, w))
		}, "b": every(time.Second, forever, good("b"))}, "a 0s, b 7s"},
		{"the first stops in a line", script{"a": func(ctx context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "half of a l")
			return errors.Join(err, hang(ctx, w))
		}, "b": every(time.Second, forever, good("b"))}, "b 3.25s"},
		{"the first sends what is not signed", script{"a": every(time.Second, forever, good("forged")), "b": every(time.Second, forever, good("b"))}, "b 250ms"},
		{"the first sends without an end of line", script{"a": func(ctx context.Context, w io.Writer) error {
			for {
				if _, err := io.WriteString(w, strings.Repeat("x", 10000)); err != nil {
					return err
				}
			}
		}, "b": every(time.Second, forever, good("b"))}, "b 250ms"},
		{"the first is behind for ever", script{"a": every(time.Second, forever, good("older")), "b": every(time.Second, forever, good("b"))}, "b 3.25s"},
		{"the first is behind, and catches up", script{"a": func(ctx context.Context, w io.Writer) error {
			return errors.Join(every(time.Second, 2, good("older"))(ctx, w), every(time.Second, forever, good("a"))(ctx, w))
		}, "b": every(time.Second, forever, good("b"))}, "a 2s"},
		{"both end, again and again", script{"a": every(time.Second, 2, good("a")), "b": every(time.Second, 2, good("b"))}, "a 0s, b 2s, a 4s, b 6s, a 8s"},
		{"slow, but not too slow", script{"a": every(2900*time.Millisecond, forever, good("a"))}, "a 0s"},
	} {
		t.Run(tc.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				var heard []string
				last := ""
				f := &follower{
					controllers: []string{"http://a", "http://b/"}, client: &http.Client{Transport: tc.script}, log: slog.New(slog.DiscardHandler),
					take: func(_ context.Context, line []byte) error {
						switch name := string(line); {
						case name == "older":
							return errOlder
						case len(name) > 1:
							return snapshot.ErrForged
						case name != last:
							last = name
							heard = append(heard, fmt.Sprintf("%s %s", name, time.Since(begin)))
						}
						return nil
					},
				}
				ctx, cancel := context.WithTimeout(t.Context(), 9500*time.Millisecond)
				defer cancel()
				if err := f.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("ended with %v", err)
				}
				if got := strings.Join(heard, ", "); got != tc.want {
					t.Errorf("heard %s, want %s", got, tc.want)
				}
			})
		})
	}
}

// TestFollowRealControllers: what is sent at once is answered at once, and the next controller is asked when one ends.
func TestFollowRealControllers(t *testing.T) {
	first, second := newController(t), newController(t)
	first.sends(t, allActive(1))
	second.sends(t, allActive(2))
	cfg := testConfig(t, first.URL, second.URL)
	s, _ := start(t, cfg)
	answersFrom(t, s, 1)
	first.sends(t, allActive(3))
	answersFrom(t, s, 3)
	first.CloseClientConnections()
	second.sends(t, allActive(4))
	answersFrom(t, s, 4)
}
