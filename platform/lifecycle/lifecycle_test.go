package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"antipode.example/platform/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

// component writes down what happens to it.
func (j *journal) component(name string) lifecycle.Component {
	return lifecycle.Component{
		Name:  name,
		Start: func(context.Context) error { j.add("start " + name); return nil },
		Run: func(ctx context.Context) error {
			<-ctx.Done()
			j.add("end " + name)
			return ctx.Err()
		},
	}
}

func TestRun(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name    string
		make    func(j *journal) []lifecycle.Component
		want    []string
		is      error
		says    string
		elapsed time.Duration
	}{
		{
			"order", func(j *journal) []lifecycle.Component {
				return []lifecycle.Component{j.component("a"), j.component("b"), j.component("c")}
			},
			[]string{"start a", "start b", "start c", "end c", "end b", "end a"},
			nil, "", time.Second,
		},
		{
			"start fails", func(j *journal) []lifecycle.Component {
				b := j.component("b")
				b.Start = func(context.Context) error { return boom }
				return []lifecycle.Component{j.component("a"), b, j.component("c")}
			},
			[]string{"start a", "end a"},
			boom, "start b: boom", 0,
		},
		{
			"start takes too long", func(j *journal) []lifecycle.Component {
				b := j.component("b")
				b.StartLimit = 3 * time.Second
				b.Start = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
				return []lifecycle.Component{j.component("a"), b}
			},
			[]string{"start a", "end a"},
			nil, "", time.Second, // the context ends first: no error
		},
		{
			"run fails", func(j *journal) []lifecycle.Component {
				b := j.component("b")
				b.Run = func(context.Context) error { return boom }
				return []lifecycle.Component{j.component("a"), b}
			},
			[]string{"start a", "start b", "end a"},
			boom, "b: boom", 0,
		},
		{
			"run ends", func(j *journal) []lifecycle.Component {
				b := j.component("b")
				b.Run = func(context.Context) error { return nil }
				return []lifecycle.Component{j.component("a"), b}
			},
			[]string{"start a", "start b", "end a"},
			nil, "b: ended without being asked to", 0,
		},
		{
			"grace", func(j *journal) []lifecycle.Component {
				b := j.component("b")
				stop := make(chan struct{})
				b.Run = func(context.Context) error { <-stop; return nil }
				b.Stop = func(context.Context) error {
					j.add("stop b")
					time.AfterFunc(2*time.Second, func() { close(stop) })
					return nil
				}
				return []lifecycle.Component{j.component("a"), b}
			},
			[]string{"start a", "start b", "stop b", "end a"},
			nil, "", 3 * time.Second,
		},
		{
			"force", func(j *journal) []lifecycle.Component {
				b := j.component("b")
				b.StopLimit = 2 * time.Second
				b.Stop = func(ctx context.Context) error { <-ctx.Done(); j.add("stop b"); return boom }
				return []lifecycle.Component{j.component("a"), b}
			},
			[]string{"start a", "start b", "stop b", "end b", "end a"},
			boom, "cut off after 2s", 3 * time.Second,
		},
		{
			"stop without run", func(j *journal) []lifecycle.Component {
				return []lifecycle.Component{{Name: "a", Stop: func(context.Context) error { j.add("stop a"); return nil }}, j.component("b")}
			},
			[]string{"start b", "end b", "stop a"},
			nil, "", time.Second,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				begin := time.Now()
				j := &journal{}
				err := lifecycle.Run(ctx, slog.New(slog.DiscardHandler), tt.make(j)...)
				if !slices.Equal(j.lines, tt.want) {
					t.Errorf("got %q, want %q", j.lines, tt.want)
				}
				if (tt.is != nil && !errors.Is(err, tt.is)) || (tt.says == "" && err != nil) || (err != nil && !strings.Contains(err.Error(), tt.says)) || (err == nil && tt.says != "") {
					t.Errorf("error %v, want %q", err, tt.says)
				}
				if got := time.Since(begin); got != tt.elapsed {
					t.Errorf("took %s, want %s", got, tt.elapsed)
				}
			})
		})
	}
}

// TestAbandoned: a component that obeys neither is named, and the others stop all the same.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		j := &journal{}
		never := make(chan struct{})
		deaf := lifecycle.Component{Name: "deaf", Run: func(context.Context) error { <-never; return nil }}
		err := lifecycle.Run(ctx, slog.New(slog.DiscardHandler), j.component("a"), deaf)
		if err == nil || !strings.Contains(err.Error(), "deaf: Run did not return") || !slices.Equal(j.lines, []string{"start a", "end a"}) {
			t.Errorf("%v, %q", err, j.lines)
		}
		close(never)
	})
}
