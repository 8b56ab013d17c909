package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"antipode.example/platform/fault"
	"antipode.example/platform/region"
)

const (
	maxBody    = 16 << 10
	auditLines = 100 // by default
	mostAudit  = 1000
	// orderTimeout bounds an order: some calls of the global store, each of at most global.Timeout.
	orderTimeout = 15 * time.Second
	// lineTimeout bounds the sending of one snapshot.
	lineTimeout = 5 * time.Second
)

// Handler is the API for operators and name servers. Whoever reaches it may do everything: it listens inside the region only.
//
//	GET  /v1/snapshots               signed snapshots, one a line, each second and when something changes, until the caller goes
//	GET  /v1/evaluate                Evaluation
//	GET  /v1/audit?limit=N           the last changes of records, newest first: Audited
//	POST /v1/plan                    PlanRequest → Plan
//	POST /v1/drain, activate, fence  Order → Done
//
// Errors are {"error": …}: 400 for a request that can't be understood, 404 for a region that there is not, 409 for an order that is refused, 503 while there is no majority, or before the state of the regions is known.
// Streams of snapshots end when stop is closed.
func (c *Controller) Handler(stop <-chan struct{}) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/snapshots", func(w http.ResponseWriter, r *http.Request) { c.stream(w, r, stop) })
	mux.HandleFunc("GET /v1/evaluate", func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, func(ctx context.Context) (any, error) { return c.Evaluate(), c.mustKnow(ctx) })
	})
	mux.HandleFunc("GET /v1/audit", func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, func(ctx context.Context) (any, error) { return c.audit(ctx, r.URL.Query().Get("limit")) })
	})
	mux.HandleFunc("POST /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		c.answer(w, r, func(ctx context.Context) (any, error) {
			var q PlanRequest
			if err := errors.Join(decode(w, r, &q), c.mustKnow(ctx)); err != nil {
				return nil, err
			}
			if _, err := q.Order.target(); err != nil {
				return nil, &badRequest{err}
			}
			return c.Plan(ctx, q.Order, q.Region)
		})
	})
	for _, kind := range []Kind{Drain, Activate, Fence} {
		mux.HandleFunc("POST /v1/"+string(kind), func(w http.ResponseWriter, r *http.Request) {
			c.answer(w, r, func(ctx context.Context) (any, error) {
				var o Order
				if err := decode(w, r, &o); err != nil {
					return nil, err
				}
				if err := o.check(); err != nil {
					return nil, &badRequest{err}
				}
				if err := c.mustKnow(ctx); err != nil {
					return nil, err
				}
				return c.Carry(ctx, kind, o)
			})
		})
	}
	return mux
}

// PlanRequest asks what an order would do.
type PlanRequest struct {
	Order  Kind   `json:"order"`
	Region string `json:"region"`
}

// Audited is a change of a record.
type Audited struct {
	Revision int64         `json:"revision"`
	From     region.State  `json:"from"`
	Record   region.Record `json:"record"`
}

// errUnknownYet: it is not known what state regions have.
var errUnknownYet = errors.New("this controller does not know yet what state the regions have: ask another one, or again")

func (c *Controller) mustKnow(ctx context.Context) error {
	if c.Known(ctx) != nil {
		return errUnknownYet
	}
	return nil
}

func (c *Controller) audit(ctx context.Context, limit string) ([]Audited, error) {
	n := auditLines
	if limit != "" {
		var err error
		if n, err = strconv.Atoi(limit); err != nil || n < 1 || n > mostAudit {
			return nil, &badRequest{fmt.Errorf("limit: must be a number from 1 to %d, is %q", mostAudit, limit)}
		}
	}
	entries, err := c.Store.Audit(ctx, n)
	if err != nil {
		return nil, err
	}
	all := make([]Audited, len(entries))
	for i, e := range entries {
		all[i] = Audited{Revision: e.Revision, From: e.From, Record: e.Record}
	}
	return all, nil
}

// badRequest is a request that can't be understood.
type badRequest struct{ error }

func (b *badRequest) Unwrap() error { return b.error }

// decode reads a body that has one document, and nothing that is not known.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("is empty")
		}
		return &badRequest{fmt.Errorf("read the body: %w", err)}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &badRequest{errors.New("read the body: something follows the document")}
	}
	return nil
}

func (c *Controller) answer(w http.ResponseWriter, r *http.Request, do func(context.Context) (any, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), orderTimeout)
	defer cancel()
	result, err := do(ctx)
	w.Header().Set("content-type", "application/json")
	w.Header().Set("cache-control", "no-store")
	if err != nil {
		status := statusOf(err)
		if status == http.StatusInternalServerError {
			c.Log.ErrorContext(ctx, "request of an operator failed", slog.String("path", r.URL.Path), slog.Any("error", err))
		}
		w.WriteHeader(status)
		result = failure{err.Error()}
	}
	_ = json.NewEncoder(w).Encode(result) // an error here is the asker's
}

// failure is the body of an error.
type failure struct {
	Error string `json:"error"`
}

func statusOf(err error) int {
	var bad *badRequest
	var tooLarge *http.MaxBytesError
	var no *refused
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.As(err, &bad):
		return http.StatusBadRequest
	case errors.Is(err, ErrUnknownRegion):
		return http.StatusNotFound
	case errors.As(err, &no), errors.Is(err, region.ErrConflict):
		return http.StatusConflict
	case fault.Is(err, fault.NoQuorum), errors.Is(err, errUnknownYet):
		return http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// stream sends snapshots until the caller goes, or is too slow.
func (c *Controller) stream(w http.ResponseWriter, r *http.Request, stop <-chan struct{}) {
	line, next := c.feed.get()
	if line == nil {
		c.answer(w, r, func(context.Context) (any, error) { return nil, errUnknownYet })
		return
	}
	w.Header().Set("content-type", "application/x-ndjson")
	w.Header().Set("cache-control", "no-store")
	out := http.NewResponseController(w)
	if err := out.SetReadDeadline(time.Time{}); err != nil { // that of requests would end the stream
		return
	}
	for {
		if err := out.SetWriteDeadline(time.Now().Add(lineTimeout)); err != nil {
			return
		}
		if _, err := w.Write(append(line[:len(line):len(line)], '\n')); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-stop:
			return
		case <-r.Context().Done():
			return
		case <-next:
			line, next = c.feed.get()
		}
	}
}
