package gateway

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"antipode.example/platform/fault"
)

// Plain are handlers of plain HTTP beside the REST routes: for content, which is no message. A handler decides nothing about its caller: it asks an RPC by Conn, and what that refuses it returns.
type Plain struct {
	h        *handler
	mux      *http.ServeMux
	patterns []string
	conn     grpc.ClientConnInterface
}

// Handle serves a pattern of http.ServeMux with a method, such as "GET /v1/assets/{id}/content"; the pattern goes before REST routes of the same path. What f returns before it has written anything is answered as a problem
// document. Neither the request nor its answer is limited in size or time: that is f's to do, with http.ResponseController.
func (p *Plain) Handle(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
	p.patterns = append(p.patterns, pattern)
	p.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		seen := &watched{ResponseWriter: w}
		err := f(seen, r.WithContext(outgoing(r.Context(), r, seen)))
		if err != nil && !seen.wrote {
			p.h.write(seen, r, fault.From(err), 0)
		}
	})
}

// Conn reaches RPCs in the process, through what all requests go through. Its context is that of the request, or derived from it: the request's headers that any RPC takes go along, and those of the answer are set on the request's.
func (p *Plain) Conn() grpc.ClientConnInterface { return told{p.conn} }

// outgoing is the context of calls on behalf of a request.
func outgoing(ctx context.Context, r *http.Request, w http.ResponseWriter) context.Context {
	md := metadata.MD{}
	for _, name := range requestHeaders {
		if v := r.Header.Values(name); len(v) > 0 {
			md[name] = slices.Clone(v)
		}
	}
	md = metadata.Join(md, source(ctx, r))
	return context.WithValue(metadata.NewOutgoingContext(ctx, md), answerKey{}, w)
}

type answerKey struct{}

// told is a connection that sets what an answer brings beside its message on the answer to the request.
type told struct{ grpc.ClientConnInterface }

// Invoke implements grpc.ClientConnInterface.
func (t told) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	var back metadata.MD
	err := t.ClientConnInterface.Invoke(ctx, method, args, reply, append(opts, grpc.Header(&back))...)
	if w, ok := ctx.Value(answerKey{}).(http.ResponseWriter); ok {
		for _, k := range slices.Sorted(maps.Keys(back)) {
			if name, ok := outgoingHeader(k); ok && len(back[k]) > 0 {
				w.Header().Set(name, back[k][len(back[k])-1])
			}
		}
	}
	return err
}

// watched knows whether an answer has begun.
type watched struct {
	http.ResponseWriter
	wrote bool
}

// WriteHeader implements http.ResponseWriter.
func (w *watched) WriteHeader(code int) {
	w.wrote = w.wrote || code >= http.StatusOK
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *watched) Write(b []byte) (int, error) {
	w.wrote = true
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the writer.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serves reports whether a request has a plain handler. A path that has one with another method only is left to REST, which may have a route for it.
func (p *Plain) serves(r *http.Request) bool {
	_, pattern := p.mux.Handler(r)
	return slices.Contains(p.patterns, pattern)
}

// methods are those with which plain handlers serve the path of a request.
func (p *Plain) methods(r *http.Request) []string {
	var found []string
	for _, pattern := range p.patterns {
		method, _, _ := strings.Cut(pattern, " ")
		ask := r.Clone(r.Context())
		if ask.Method = method; p.serves(ask) && !slices.Contains(found, method) {
			found = append(found, method)
		}
	}
	return found
}
