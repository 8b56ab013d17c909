package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/wan"
)

// Server runs a lab for other processes.
type Server struct {
	opts  lab.Options
	log   *slog.Logger
	feed  *feed
	began time.Time
	down  chan struct{} // closed when somebody asks to stop
	gone  chan struct{} // closed once the lab is closed
	once  sync.Once

	// Orders are carried out whether their client stays or not, until the lab is stopped.
	orders   sync.WaitGroup
	lifetime context.Context //nolint:containedctx // bounds orders, which outlive their requests

	mu    sync.Mutex
	lab   *lab.Lab // nil until everything is ready
	phase string
	err   error // of closing
}

// Serve starts the lab, serves it until ctx is done or a client asks for its end, and closes it. It returns the error with
// which the start failed, or with which the lab closed. A lab that another process runs gives an error that wraps lab.ErrRunning.
func Serve(ctx context.Context, opts lab.Options) error {
	opts, err := opts.Complete()
	if err != nil {
		return err
	}
	held, err := lab.Acquire(opts.Name)
	if err != nil {
		return err
	}
	s := &Server{
		opts: opts, log: opts.Logger, feed: newFeed(), began: time.Now(), phase: Starting,
		down: make(chan struct{}), gone: make(chan struct{}),
	}
	also := opts.Progress
	s.opts.Progress = func(e lab.Event) {
		s.feed.add(e)
		if also != nil {
			also(e)
		}
	}
	s.opts.Lock = held
	return errors.Join(s.serve(ctx), held.Release())
}

func (s *Server) serve(ctx context.Context) error {
	listener, err := listen(ctx, s.opts.Name)
	if err != nil {
		return err
	}
	httpServer := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 5 * time.Second}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := httpServer.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.ErrorContext(ctx, "serving the control socket", "error", err)
		}
	})
	err = s.runLab(ctx)
	close(s.gone)
	// Readers get their last lines; those who stay longer are cut off.
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if shutErr := httpServer.Shutdown(bye); shutErr != nil {
		err = errors.Join(err, httpServer.Close())
	}
	serving.Wait()
	return err
}

// runLab is the life of the lab.
func (s *Server) runLab(ctx context.Context) error {
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with starting
		select {
		case <-s.down:
			cancel(errors.New("stopped while it was starting"))
		case <-starting.Done():
		}
	}()
	l, err := lab.Start(starting, s.opts)
	if err != nil {
		s.feed.end(err)
		return err
	}
	var endOrders context.CancelFunc
	s.lifetime, endOrders = context.WithCancel(context.WithoutCancel(ctx))
	s.set(l, Up)
	s.feed.end(nil)
	select {
	case <-ctx.Done():
	case <-s.down:
	}
	s.set(l, Stopping)
	endOrders()
	err = l.Close(context.WithoutCancel(ctx))
	s.orders.Wait()
	s.mu.Lock()
	s.lab, s.err = nil, err
	s.mu.Unlock()
	return err
}

// listen opens the control socket for its owner alone. The caller holds the lab's lock, so a socket that exists is a leftover.
func listen(ctx context.Context, name string) (net.Listener, error) {
	path := lab.SocketPath(name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old control socket: %w", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protecting the control socket: %w", err), l.Close())
	}
	// Who started the lab by sudo may look at it and steer it without.
	if uid, err := strconv.Atoi(os.Getenv("SUDO_UID")); err == nil && os.Geteuid() == 0 {
		if err := os.Chown(path, uid, -1); err != nil {
			return nil, errors.Join(fmt.Errorf("giving the control socket to user %d: %w", uid, err), l.Close())
		}
	}
	return l, nil
}

func (s *Server) set(l *lab.Lab, phase string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lab, s.phase = l, phase
}

func (s *Server) current() (*lab.Lab, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lab, s.phase
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", s.state)
	mux.HandleFunc("GET /v1/start", s.follow)
	mux.HandleFunc("POST /v1/down", s.stop)
	mux.HandleFunc("GET /v1/status", query(s, func(l *lab.Lab, ctx context.Context) (lab.Status, error) {
		status, err := l.Status(ctx)
		status.State = Up
		return status, err
	}))
	mux.HandleFunc("GET /v1/links", query(s, func(l *lab.Lab, _ context.Context) (wan.Snapshot, error) { return l.Links(), nil }))
	mux.HandleFunc("GET /v1/digest", queryAbout(s, (*lab.Lab).Digest))
	mux.HandleFunc("GET /v1/conflicts", queryAbout(s, (*lab.Lab).Conflicts))
	mux.HandleFunc("GET /v1/letters", queryAbout(s, func(l *lab.Lab, ctx context.Context, service string) (lab.LetterReport, error) {
		return l.Letters(ctx, service, false)
	}))
	mux.HandleFunc("GET /v1/letters/all", queryAbout(s, func(l *lab.Lab, ctx context.Context, service string) (lab.LetterReport, error) {
		return l.Letters(ctx, service, true)
	}))
	mux.HandleFunc("POST /v1/letters/replay", command(s, func(ctx context.Context, l *lab.Lab, r LetterRequest) (any, error) {
		return l.ReplayLetter(ctx, r.Service, r.Name, r.Region)
	}))
	mux.HandleFunc("POST /v1/letters/drop", command(s, func(ctx context.Context, l *lab.Lab, r LetterRequest) (any, error) {
		return l.DropLetter(ctx, r.Service, r.Name, r.Region)
	}))
	mux.HandleFunc("POST /v1/names", command(s, func(ctx context.Context, l *lab.Lab, q lab.NamesRequest) (any, error) { return l.Names(ctx, q) }))
	mux.HandleFunc(trafficPath+"{region}/{rest...}", s.traffic)
	mux.HandleFunc("POST /v1/links", command(s, changeLinks))
	mux.HandleFunc("POST /v1/act", command(s, act))
	mux.HandleFunc("POST /v1/power", command(s, power))
	mux.HandleFunc("GET /v1/faults", query(s, (*lab.Lab).LookAtFaults))
	mux.HandleFunc("POST /v1/faults/inject", command(s, injectFault))
	mux.HandleFunc("POST /v1/faults/heal", command(s, healFault))
	mux.HandleFunc("POST /v1/restore", command(s, func(ctx context.Context, l *lab.Lab, r RestoreRequest) (any, error) {
		return l.RestoreConflict(ctx, r.Service, r.Name, r.Region)
	}))
	mux.HandleFunc("POST /v1/sync", command(s, func(ctx context.Context, l *lab.Lab, r SyncRequest) (any, error) {
		return l.Reconcile(ctx, r.Service, r.Region, r.From)
	}))
	return mux
}

func (s *Server) state(w http.ResponseWriter, _ *http.Request) {
	_, phase := s.current()
	names, err := lab.ComponentNames(s.opts)
	answer(w, State{
		Lab: s.opts.Name, Phase: phase, PID: os.Getpid(), Since: s.began, Topology: s.opts.Topology.Name, Dir: s.opts.Dir(), Components: names,
		Services: s.opts.Topology.ServiceNames(),
	}, err)
}

// follow streams the events of the start until it has ended.
func (s *Server) follow(w http.ResponseWriter, r *http.Request) {
	s.stream(r.Context(), w, 0, func() (bool, any, error) {
		ended, err := s.feed.started()
		return ended, nil, err
	})
}

// stop ends the lab and streams events until it is gone.
func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	_, from, _ := s.feed.from(0)
	s.once.Do(func() { close(s.down) })
	s.stream(r.Context(), w, from, func() (bool, any, error) {
		select {
		case <-s.gone:
			s.mu.Lock()
			defer s.mu.Unlock()
			return true, nil, s.err
		default:
			return false, nil, nil
		}
	})
}

const streamPoll = 200 * time.Millisecond

// stream writes events from a position on until done says so, then the last line.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, position int, done func() (bool, any, error)) {
	w.Header().Set("content-type", "application/x-ndjson")
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	for {
		// In this order no event that came before the end is missed.
		_, _, news := s.feed.from(position)
		ended, result, err := done()
		events, next, _ := s.feed.from(position)
		position = next
		for i := range events {
			if out.Encode(line{Event: &events[i]}) != nil {
				return // the reader has gone
			}
		}
		if ended {
			_ = out.Encode(lastLine(result, err)) // a reader that has gone misses nothing
			return
		}
		if flush.Flush() != nil {
			return
		}
		select {
		case <-news:
		case <-time.After(streamPoll):
		case <-ctx.Done():
			return
		}
	}
}

func lastLine(result any, err error) line {
	last := line{Done: true}
	if result != nil && err == nil {
		last.Result, err = json.Marshal(result)
	}
	if err != nil {
		last.Error = err.Error()
	}
	return last
}

// answer writes a result or an error.
func answer(w http.ResponseWriter, result any, err error) {
	w.Header().Set("content-type", "application/json")
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = json.NewEncoder(w).Encode(lastLine(result, err)) // the client sees a broken connection
}

// ready returns the lab, or says why there is none yet.
func (s *Server) ready() (*lab.Lab, error) {
	l, phase := s.current()
	if l == nil || phase == Stopping {
		return nil, fmt.Errorf("lab %s is %s: try again when it is up", s.opts.Name, phase)
	}
	return l, nil
}

// query serves a question about the lab.
func query[T any](s *Server, ask func(*lab.Lab, context.Context) (T, error)) http.HandlerFunc {
	return queryAbout(s, func(l *lab.Lab, ctx context.Context, _ string) (T, error) { return ask(l, ctx) })
}

// serviceParameter names a service in the URL of a question; without it, or when it is empty, all are meant.
const serviceParameter = "service"

// queryAbout serves a question about a service of the lab, or about all.
func queryAbout[T any](s *Server, ask func(*lab.Lab, context.Context, string) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		l, err := s.ready()
		if err != nil {
			answer(w, nil, err)
			return
		}
		result, err := ask(l, r.Context(), r.URL.Query().Get(serviceParameter))
		answer(w, result, err)
	}
}

const maxRequest = 1 << 20

// command serves an order to the lab and streams the events until it is carried out. It is carried out whether the client stays or not.
func command[Q any](s *Server, do func(context.Context, *lab.Lab, Q) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		l, err := s.ready()
		if err != nil {
			answer(w, nil, err)
			return
		}
		var q Q
		in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
		in.DisallowUnknownFields()
		if err := in.Decode(&q); err != nil {
			answer(w, nil, fmt.Errorf("reading the request: %w", err))
			return
		}
		_, from, _ := s.feed.from(0)
		type outcome struct {
			result any
			err    error
		}
		finished := make(chan outcome, 1)
		s.orders.Go(func() {
			result, err := do(s.lifetime, l, q)
			finished <- outcome{result, err}
		})
		s.stream(r.Context(), w, from, func() (bool, any, error) {
			select {
			case o := <-finished:
				return true, o.result, o.err
			default:
				return false, nil, nil
			}
		})
	}
}
