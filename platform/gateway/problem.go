package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"regexp"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

// refuse answers a request that grpc-gateway or the handler did not accept.
func (h *handler) refuse(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if md, ok := runtime.ServerMetadataFromContext(ctx); ok {
		for k, values := range md.HeaderMD {
			if name, ok := outgoingHeader(k); ok {
				for _, v := range values {
					w.Header().Set(name, v)
				}
			}
		}
	}
	h.write(w, r, faultOf(ctx, err), 0)
}

// refuseRoute answers a request that matches no route.
func (h *handler) refuseRoute(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if _, probing := ctx.Value(probeKey{}).(*probe); probing {
		return
	}
	if code == http.StatusNotFound && len(h.plain.methods(r)) > 0 {
		code = http.StatusMethodNotAllowed
	}
	switch code {
	case http.StatusNotFound:
		h.write(w, r, fault.New(fault.NotFound, "there is nothing at this path"), 0)
	case http.StatusMethodNotAllowed:
		allowed := strings.Join(h.methods(r), ", ")
		w.Header().Set("Allow", allowed)
		h.write(w, r, fault.New(fault.Invalid, "this path takes %s, not %s", allowed, r.Method), code)
	default:
		h.write(w, r, fault.New(fault.Invalid, "the path is not valid"), 0)
	}
}

func (h *handler) write(w http.ResponseWriter, r *http.Request, f *fault.Error, code int) {
	id := r.Header.Get(rpc.HeaderRequestID)
	w.Header().Set(rpc.HeaderRequestID, id)
	if f.Kind == fault.Unauthenticated { // RFC 9110 §11.6.1, RFC 6750 §3.1
		challenge := "Bearer"
		if r.Header.Get(rpc.HeaderAuthorization) != "" {
			challenge = `Bearer error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	}
	if err := f.WriteProblem(w, id, code); err != nil {
		h.log.DebugContext(r.Context(), "caller went away before the answer", slog.String("request_id", id), slog.Any("error", err))
	}
}

// named finds the field in the messages of grpc-gateway's own parsers, which have no type.
var named = regexp.MustCompile(`(?:field|parameter:) "?([\w.]+)"?`)

// faultOf makes a fault of what grpc-gateway gives us: ours as it is; what its generated code found wrong with the request is invalid.
func faultOf(ctx context.Context, err error) *fault.Error {
	var f *fault.Error
	if errors.As(err, &f) {
		return f
	}
	var routed *runtime.HTTPStatusError
	if errors.As(err, &routed) {
		return fault.New(fault.Invalid, "the path is not valid: %v", routed.Err)
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.InvalidArgument {
		return fault.From(err)
	}
	if bad, ok := strings.CutPrefix(st.Message(), bodyErrorPrefix); ok {
		return bodyFault(ctx, bad)
	}
	if timeout, ok := strings.CutPrefix(st.Message(), "invalid grpc-timeout: "); ok {
		return fault.New(fault.Invalid, "a header is not valid").With("grpc-timeout", "%q is not a number of at most 8 digits and a unit", timeout)
	}
	f = fault.New(fault.Invalid, "the request is not valid")
	if m := named.FindStringSubmatch(st.Message()); m != nil {
		return f.With(m[1], "%s", st.Message())
	}
	f.Message = st.Message()
	return f
}
