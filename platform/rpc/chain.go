package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
)

// unaryChain is everything that happens around a handler, outermost first. gRPC and REST both run it.
func unaryChain(cfg Config, calls *metrics, validator protovalidate.Validator) grpc.UnaryServerInterceptor {
	chain := []grpc.UnaryServerInterceptor{
		identify,                // first: whatever happens next can name the request, in logs and to the caller
		measure(cfg.Log, calls), // outside translate: counts and logs the faults that callers get, after they were classified
		deadline(cfg.Deadlines), // outside translate: that can then tell a deadline of ours from a failure
		translate,               // outside recovery: a panic is a fault like others
		recovery(cfg.Log),       // outside all that runs code of this service or parses what a caller sent
		carry(cfg.Sealer),       // before all that refuses: such an answer carries the causal token too
	}
	if cfg.Access != nil {
		chain = append(chain, cfg.Access.Unary) // before validation: who may not call learns nothing from what is wrong with a message
	}
	chain = append(chain, validate(validator))         // the last of ours: costs most, and what follows may rely on the message
	return compose(append(chain, cfg.Interceptors...)) // the service's own: limits
}

// compose makes one interceptor of many, the first outermost.
func compose(all []grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for _, next := range slices.Backward(all) {
			inner := handler
			handler = func(ctx context.Context, req any) (any, error) { return next(ctx, req, info, inner) }
		}
		return handler(ctx, req)
	}
}

// identify makes the request's Call, and sends back what belongs beside the answer.
func identify(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c := NewCall()
	c.sent, _ = metadata.FromIncomingContext(ctx)
	c.Source = source(ctx, c.sent)
	if v := c.sent[HeaderRequestID]; len(v) == 1 && printable(v[0]) {
		c.RequestID = v[0]
	}
	resp, err := handler(NewContext(ctx, c), req)
	back := c.back
	if back == nil {
		back = make(metadata.MD, 1)
	}
	back[HeaderRequestID] = []string{c.RequestID}
	// Both fail only once headers are sent, which no unary handler does.
	if err != nil {
		// A header of its own would keep the client from trying again: gRPC takes it for the beginning of an answer (gRFC A6).
		_ = grpc.SetTrailer(ctx, back)
	} else {
		_ = grpc.SetHeader(ctx, back)
	}
	return resp, err
}

// measure counts and times calls by method and reason, and logs the faults that an operator has to know of. It is where a fault's cause
// ends: callers do not get it.
func measure(log *slog.Logger, calls *metrics) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		begin := time.Now()
		resp, err := handler(ctx, req)
		f := fault.From(err)
		calls.observe(ctx, info.FullMethod, f, time.Since(begin))
		if f != nil {
			logFault(ctx, log, info.FullMethod, f)
		}
		return resp, err
	}
}

func logFault(ctx context.Context, log *slog.Logger, method string, f *fault.Error) {
	level := slog.LevelDebug
	switch f.Kind {
	case fault.Internal, fault.UnknownOutcome:
		level = slog.LevelError
	case fault.Unavailable, fault.NoQuorum, fault.Clock, fault.Deadline:
		level = slog.LevelWarn
	default: // the caller's doing, or announced by whoever drains or fences
	}
	if log.Enabled(ctx, level) {
		log.LogAttrs(ctx, level, "request refused", slog.String("method", method), slog.String("request_id", FromContext(ctx).RequestID),
			slog.String("reason", string(f.Kind)), slog.String("message", f.Message), slog.Any("cause", f.Cause))
	}
}

// deadline gives every handler one: the caller's, but at most limits.Max away, or limits.Default.
func deadline(limits Deadlines) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		limit := limits.Max
		if _, given := ctx.Deadline(); !given {
			limit = limits.Default
		}
		ctx, cancel := context.WithTimeout(ctx, limit) // keeps the caller's when that is sooner
		defer cancel()
		return handler(ctx, req)
	}
}

// translate makes a fault of every error.
func translate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err == nil {
		return resp, nil
	}
	var classified *fault.Error
	if ctx.Err() != nil && !errors.As(err, &classified) {
		// Drivers do not all keep the context's error in the chain.
		return nil, fault.From(ctx.Err()).Because(err)
	}
	return nil, fault.From(err)
}

// recovery makes a panic an internal fault: the caller learns nothing of it, the log gets the stack.
func recovery(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				err = panicked(ctx, log, info.FullMethod, p)
			}
		}()
		return handler(ctx, req)
	}
}

func panicked(ctx context.Context, log *slog.Logger, method string, p any) error {
	log.ErrorContext(ctx, "panic", slog.String("method", method), slog.String("request_id", FromContext(ctx).RequestID),
		slog.Any("value", p), slog.String("stack", string(debug.Stack())))
	return fault.New(fault.Internal, "internal error").Because(fmt.Errorf("panic: %v", p))
}

// carry reads what travels beside the message, and seals what goes back.
func carry(sealer *causal.Sealer) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c := FromContext(ctx)
		if err := c.read(c.sent, sealer); err != nil {
			return nil, err // no token goes back: what the caller has seen is not known
		}
		resp, err := handler(ctx, req)
		c.back = c.seal(sealer, err == nil)
		return resp, err
	}
}

// validate refuses messages that break the rules of their .proto files.
func validate(v protovalidate.Validator) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if m, ok := req.(proto.Message); ok {
			if err := v.Validate(m); err != nil {
				return nil, invalid(err)
			}
		}
		return handler(ctx, req)
	}
}

// invalid is a fault of what protovalidate found.
func invalid(err error) error {
	var bad *protovalidate.ValidationError
	if !errors.As(err, &bad) {
		return fmt.Errorf("validate request: %w", err) // a rule that cannot be evaluated is our bug
	}
	f := fault.New(fault.Invalid, "the request is not valid")
	for _, v := range bad.Violations {
		f = f.With(protovalidate.FieldPathString(v.Proto.GetField()), "%s", v.Proto.GetMessage())
	}
	return f
}

// streamChain is what holds for streaming methods.
func streamChain(log *slog.Logger, access Access) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = panicked(ss.Context(), log, info.FullMethod, p)
			}
		}()
		admit := handler
		if access != nil {
			admit = func(srv any, ss grpc.ServerStream) error { return access.Stream(srv, ss, info, handler) }
		}
		if err := admit(srv, ss); err != nil {
			return fault.From(err)
		}
		return nil
	}
}
