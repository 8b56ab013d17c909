package gateway

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

// DefaultMaxBodyBytes is the limit on a REST body unless a Config says otherwise.
const DefaultMaxBodyBytes = 1 << 20

// maxDiscard is how much of a body that is too large is read and thrown away, so that its sender gets an answer.
const maxDiscard = 16 << 20

const (
	bodyTime   = 15 * time.Second // in which a REST body must have come in
	answerTime = 90 * time.Second // in which a REST request must be done with: the longest handler, and a slow reader
)

// Config is what a gateway needs.
type Config struct {
	Log *slog.Logger
	// Server answers gRPC, and REST through its Conn.
	Server *rpc.Server
	// Register adds the REST routes: calls of the generated Register…HandlerClient with conn.
	Register func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error
	// Plain adds handlers of plain HTTP; may be nil.
	Plain func(p *Plain)
	// OpenAPI is served at /openapi.json; none when nil.
	OpenAPI []byte
	// MaxBodyBytes limits a REST body; 0 means DefaultMaxBodyBytes.
	MaxBodyBytes int64
	// Lameduck is how long Shutdown goes on serving after Drain, so that load balancers notice; 0 does not wait.
	Lameduck time.Duration
	// Closed, unless nil, is why nobody is served now, whatever is asked for; nil while it is open. Calls over gRPC are for the interceptors of Server to refuse.
	Closed func() error
	// Drain is called when Shutdown begins: make health checks fail. May be nil.
	Drain func()
}

// handler is the root: it tells gRPC from REST.
type handler struct {
	log     *slog.Logger
	grpc    http.Handler
	rest    *runtime.ServeMux
	plain   *Plain
	maxBody int64
	closed  func() error
	// draining makes every answer the last on its connection (GOAWAY on HTTP/2). Closing idle connections instead, as
	// http.Server.SetKeepAlivesEnabled does, loses requests that are under way to them.
	draining atomic.Bool
}

func newHandler(ctx context.Context, cfg Config) (*handler, error) {
	h := &handler{log: cfg.Log, grpc: cfg.Server, maxBody: cfg.MaxBodyBytes, closed: cfg.Closed}
	if h.closed == nil {
		h.closed = func() error { return nil }
	}
	if h.maxBody == 0 {
		h.maxBody = DefaultMaxBodyBytes
	}
	h.rest = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, strictJSON{&runtime.JSONPb{MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true}}}),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithMetadata(source),
		runtime.WithOutgoingHeaderMatcher(outgoingHeader),
		runtime.WithOutgoingTrailerMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithErrorHandler(h.refuse),
		runtime.WithRoutingErrorHandler(h.refuseRoute),
		runtime.WithMiddlewares(h.body),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		// The generated code knows only the path as net/url decoded it; with this mode "a%2Fb" stays one segment.
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
		runtime.WithWriteContentLength(),
	)
	if err := cfg.Register(ctx, h.rest, strictQuery{cfg.Server.Conn()}); err != nil {
		return nil, fmt.Errorf("register REST routes: %w", err)
	}
	h.plain = &Plain{h: h, mux: http.NewServeMux(), conn: cfg.Server.Conn()}
	if cfg.Plain != nil {
		cfg.Plain(h.plain)
	}
	if cfg.OpenAPI != nil {
		if err := h.rest.HandlePath(http.MethodGet, "/openapi.json", document(cfg.OpenAPI)); err != nil {
			return nil, fmt.Errorf("register /openapi.json: %w", err)
		}
	}
	return h, nil
}

// ServeHTTP answers one request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		h.grpc.ServeHTTP(w, r)
		return
	}
	defer h.recovered(w, r)
	if id := r.Header.Values(rpc.HeaderRequestID); len(id) != 1 || !carried(id[0]) || len(id[0]) > 128 {
		r.Header.Set(rpc.HeaderRequestID, rand.Text()) // here, so that errors of routing have one too
	}
	if f := unusableHeader(r.Header); f != nil {
		h.write(w, r, f, 0)
		return
	}
	if err := h.closed(); err != nil {
		h.write(w, r, fault.From(err), 0)
		return
	}
	// Set anew for each request: on HTTP/1.1 the last one's would still stand.
	control := http.NewResponseController(w)
	if h.plain.serves(r) {
		_ = control.SetWriteDeadline(time.Time{})
		h.plain.mux.ServeHTTP(w, r)
		return
	}
	_ = control.SetWriteDeadline(time.Now().Add(answerTime))
	h.rest.ServeHTTP(w, r)
}

// recovered is for panics of the gateway's own; those of handlers end in package rpc.
func (h *handler) recovered(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	h.log.ErrorContext(r.Context(), "panic", slog.String("path", r.URL.Path), slog.String("request_id", r.Header.Get(rpc.HeaderRequestID)),
		slog.Any("value", p), slog.String("stack", string(debug.Stack())))
	h.write(w, r, fault.New(fault.Internal, "internal error"), 0)
}

// body reads the body of a request whose route is known, within the limits, so that what follows cannot meet a slow or endless one.
func (h *handler) body(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		if p, ok := r.Context().Value(probeKey{}).(*probe); ok {
			p.found = true
			return
		}
		if len(r.Header.Values("If-Match"))+len(r.Header.Values("If-None-Match")) > 0 && r.Method != http.MethodGet && r.Method != http.MethodHead {
			// A condition that is not heeded must not look as if it were.
			h.write(w, r, fault.New(fault.Invalid, "the request is not valid").With("If-Match", "conditions of a write stand in the body or the query, as etag"), 0)
			return
		}
		if r.URL.RawQuery != "" {
			r = r.WithContext(context.WithValue(r.Context(), queryKey{}, r.URL.RawQuery))
		}
		if r.ContentLength == 0 { // -1 when it is not known; over HTTP/2 Body is never http.NoBody
			next(w, r, params)
			return
		}
		if r.Method == http.MethodGet || r.Method == http.MethodDelete {
			h.write(w, r, fault.New(fault.Invalid, "%s takes no body", r.Method), 0)
			return
		}
		if err := jsonBody(r.Header); err != nil {
			h.write(w, r, err, http.StatusUnsupportedMediaType)
			return
		}
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(bodyTime))
		var b []byte
		var err error = &http.MaxBytesError{Limit: h.maxBody}
		if r.ContentLength <= h.maxBody {
			b, err = io.ReadAll(http.MaxBytesReader(nil, r.Body, h.maxBody)) // nil: it is for us to say when the connection closes
		}
		over := new(http.MaxBytesError)
		if errors.As(err, &over) && r.Header.Get("Expect") == "" {
			// Most clients read no answer before they have sent all, and never see one that comes with a closed connection.
			_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
		}
		_ = control.SetReadDeadline(time.Time{})
		switch {
		case errors.As(err, &over):
			h.write(w, r, fault.New(fault.TooLarge, "the body is larger than %d bytes", h.maxBody), 0)
			return
		case err != nil:
			w.Header().Set("Connection", "close")
			h.write(w, r, fault.New(fault.Invalid, "the body did not come in whole within %s", bodyTime).Because(err), 0)
			return
		}
		r.Body = &readBody{bytes: b}
		next(w, r, params)
	}
}

// readBody is a body in memory.
type readBody struct{ bytes []byte }

func (b *readBody) Read(p []byte) (int, error) {
	if len(b.bytes) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.bytes)
	b.bytes = b.bytes[n:]
	return n, nil
}

func (b *readBody) Close() error { return nil }

// jsonBody refuses what does not say that it is plain JSON. A body that does not say what it is, is taken for JSON.
func jsonBody(h http.Header) *fault.Error {
	if e := h.Get("Content-Encoding"); e != "" && e != "identity" {
		return fault.New(fault.Invalid, "the body must not be compressed").With("content-encoding", "%q is not supported", e)
	}
	text := h.Get("Content-Type")
	if text == "" {
		return nil
	}
	media, params, err := mime.ParseMediaType(text)
	if charset, given := params["charset"]; err == nil && media == "application/json" && (!given || strings.EqualFold(charset, "utf-8")) {
		return nil
	}
	return fault.New(fault.Invalid, "the body must be JSON in UTF-8").With("content-type", "must be %q", "application/json")
}

// document answers with b.
func document(b []byte) runtime.HandlerFunc {
	sum := sha256.Sum256(b)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Etag", etag)
		w.Header().Set("Cache-Control", "no-cache")
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(b) // an error here is the reader's
	}
}

// probe asks whether a route exists without taking it.
type probe struct{ found bool }

type probeKey struct{}

// methods are those that the path of r is served with.
func (h *handler) methods(r *http.Request) []string {
	found := h.plain.methods(r)
	for _, m := range []string{http.MethodDelete, http.MethodGet, http.MethodPatch, http.MethodPost, http.MethodPut} {
		if h.serves(r, m) {
			found = append(found, m)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (h *handler) serves(r *http.Request, method string) bool {
	p := &probe{}
	ask := r.WithContext(context.WithValue(r.Context(), probeKey{}, p))
	ask.Method = method
	h.rest.ServeHTTP(nowhere{}, ask)
	return p.found
}

// nowhere takes what a probe answers.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// Headers that go from a request into metadata, and from a handler's metadata into the answer. Nothing else passes.
var (
	requestHeaders = []string{
		rpc.HeaderAuthorization, rpc.HeaderToken, rpc.HeaderDurability, rpc.HeaderRead, rpc.HeaderIdempotencyKey, rpc.HeaderRequestID, rpc.HeaderTraceParent, rpc.HeaderTraceState,
	}
	responseHeaders = []string{
		rpc.HeaderToken, rpc.HeaderDurability, rpc.HeaderStale, rpc.HeaderCausal, rpc.HeaderLost, rpc.HeaderRequestID,
	}
)

func incomingHeader(key string) (string, bool) {
	key = strings.ToLower(key)
	return key, key != rpc.HeaderAuthorization && slices.Contains(requestHeaders, key) // that one grpc-gateway passes by itself
}

// source says who the client is. It stands in for what grpc-gateway would say: that appends its own peer, the load balancer, to x-forwarded-for.
func source(_ context.Context, r *http.Request) metadata.MD {
	return metadata.Pairs(rpc.HeaderForwardedFor, rpc.SourceOf(r.Header.Values(rpc.HeaderForwardedFor), r.RemoteAddr))
}

func outgoingHeader(key string) (string, bool) { return key, slices.Contains(responseHeaders, key) }

// unusableHeader finds a header that metadata cannot carry: grpc-gateway would leave it out in silence.
func unusableHeader(h http.Header) *fault.Error {
	for _, name := range requestHeaders {
		for _, v := range h[http.CanonicalHeaderKey(name)] {
			if !carried(v) {
				return fault.New(fault.Invalid, "a header is not valid").With(name, "must be printable ASCII")
			}
		}
	}
	return nil
}

func carried(v string) bool {
	for i := range len(v) {
		if v[i] < ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}
