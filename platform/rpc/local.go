package rpc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"antipode.example/platform/fault"
)

// local is a connection that ends in the same process.
type local struct {
	methods map[string]localMethod // by full name; not changed once serving
	chain   grpc.UnaryServerInterceptor
	spans   stats.Handler // nil when there are none
}

type localMethod struct {
	impl    any
	handler grpc.MethodHandler
}

func (l *local) register(desc *grpc.ServiceDesc, impl any) {
	for _, m := range desc.Methods {
		l.methods["/"+desc.ServiceName+"/"+m.MethodName] = localMethod{impl, m.Handler}
	}
}

// Invoke calls the implementation. args goes to it as it is and must not be used again; reply shares what the answer points to. Of the
// options, grpc.Header is honoured, and gets trailers too. The error, if any, is a *fault.Error.
func (l *local) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	m, ok := l.methods[method]
	if !ok {
		return fault.FromStatus(status.Errorf(codes.Unimplemented, "there is no method %s", method))
	}
	// What the caller sends is what the handler receives, and must not go on to those that the handler calls.
	md, _ := metadata.FromOutgoingContext(ctx)
	ctx = metadata.NewIncomingContext(metadata.NewOutgoingContext(ctx, metadata.MD{}), md)
	ss := &localStream{method: method}
	ctx = grpc.NewContextWithServerTransportStream(ctx, ss)
	begin := time.Time{}
	if l.spans != nil {
		begin = time.Now()
		ctx = l.spans.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: method})
		l.spans.HandleRPC(ctx, &stats.Begin{BeginTime: begin})
	}
	// The generated handler makes an empty request, asks to have it decoded, and hands it to the interceptor. There is nothing to
	// decode: the interceptor goes on with the request that we have.
	resp, err := m.handler(m.impl, ctx, func(any) error { return nil },
		func(ctx context.Context, _ any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return l.chain(ctx, args, info, handler)
		})
	if l.spans != nil {
		l.spans.HandleRPC(ctx, &stats.End{BeginTime: begin, EndTime: time.Now(), Error: err})
	}
	for _, o := range opts {
		if h, ok := o.(grpc.HeaderCallOption); ok {
			*h.HeaderAddr = ss.take()
		}
	}
	if err != nil {
		return fault.From(err)
	}
	return move(reply, resp)
}

// NewStream refuses: there are no streams within the process.
func (l *local) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, fault.FromStatus(status.Error(codes.Unimplemented, "there are no streams within the process"))
}

// move makes to hold what from holds, one level deep: lists and messages are shared.
func move(to, from any) error {
	dst, ok := to.(proto.Message)
	src, ok2 := from.(proto.Message)
	if !ok || !ok2 || dst.ProtoReflect().Descriptor() != src.ProtoReflect().Descriptor() {
		return fault.New(fault.Internal, "internal error").Because(fmt.Errorf("handler answered %T, want %T", from, to))
	}
	d, s := dst.ProtoReflect(), src.ProtoReflect()
	if !s.IsValid() {
		return fault.New(fault.Internal, "internal error").Because(fmt.Errorf("handler answered a nil %T", from))
	}
	s.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		d.Set(f, v)
		return true
	})
	d.SetUnknown(s.GetUnknown())
	return nil
}

// localStream collects the headers that a handler sets.
type localStream struct {
	method string
	mu     sync.Mutex
	header metadata.MD
}

func (s *localStream) Method() string { return s.method }

func (s *localStream) SetHeader(md metadata.MD) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.header == nil {
		s.header = md
		return nil
	}
	for k, v := range md {
		s.header[k] = append(s.header[k], v...)
	}
	return nil
}

func (s *localStream) SendHeader(md metadata.MD) error { return s.SetHeader(md) }

// SetTrailer takes what goes beside an error (see identify): to callers in the process it is all one.
func (s *localStream) SetTrailer(md metadata.MD) error { return s.SetHeader(md) }

func (s *localStream) take() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header
}
