package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

type grpcConn = grpc.ClientConn

// serve serves what is registered until the test ends, and returns a connection to it over a link that can be cut.
func serve(t *testing.T, cfg rpc.Config, client rpc.ClientConfig, register func(*rpc.Server)) (*rpc.Server, *grpcConn, *link) {
	t.Helper()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := rpc.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	register(s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	between := &link{}
	client.Addresses, client.Dial = []string{l.Addr().String()}, between.dial
	conn, err := rpc.NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return s, conn, between
}

// users answers with who called, as the last name.
type users struct {
	userv1.UnimplementedUserServiceServer
}

func (users) answer(ctx context.Context) (*userv1.User, error) {
	c := CallerFrom(ctx)
	return &userv1.User{LastName: fmt.Sprint(c.User, " ", c.Session, " ", c.Roles, " ", c.Service, " ", c.Region)}, nil
}

func (u users) GetUser(ctx context.Context, _ *userv1.GetUserRequest) (*userv1.User, error) {
	return u.answer(ctx)
}

func (u users) CreateUser(ctx context.Context, _ *userv1.CreateUserRequest) (*userv1.User, error) {
	return u.answer(ctx)
}

func (u users) UpdateUser(ctx context.Context, _ *userv1.UpdateUserRequest) (*userv1.User, error) {
	return u.answer(ctx)
}

func newGuard(t *testing.T, cfg GuardConfig) *Guard {
	t.Helper()
	if cfg.Services == nil {
		cfg.Services = []string{userv1.UserService_ServiceDesc.ServiceName, authv1.RevocationService_ServiceDesc.ServiceName}
	}
	g, err := NewGuard(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// bearer is a context of a call with a token.
func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func TestGuard(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	here, there := w.open("us-east"), w.open("eu-west")
	p := newPublisher(t, w.clock, true)
	reader := metric.NewManualReader()
	g := newGuard(t, GuardConfig{Keys: there, Revoked: []*Revoked{newRevoked(), p.Revoked()}, Meter: metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")})
	server, conn, _ := serve(t, rpc.Config{Access: g}, rpc.ClientConfig{}, func(s *rpc.Server) {
		userv1.RegisterUserServiceServer(s, users{})
		healthv1.RegisterHealthServer(s, health.NewServer())
	})
	plain := Grant{User: newID("bob"), Session: newID("bob's session")}
	ended := Grant{User: newID("bob"), Session: newID("another one")}
	if err := p.Add(EndedSession(ended.Session, w.clock.Now())); err != nil {
		t.Fatal(err)
	}
	service := func(name string) string {
		token, _, err := here.IssueService(name)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	admin, bob, dead := w.token(here, alice()), w.token(here, plain), w.token(here, ended)
	w.clock.forward(-2 * Life)
	old := w.token(here, plain)
	w.clock.forward(2 * Life)
	get := func(of string) proto.Message { return &userv1.GetUserRequest{Id: of} }
	create := &userv1.CreateUserRequest{User: &userv1.User{Email: "a@example.com"}}
	badCreate := &userv1.CreateUserRequest{User: &userv1.User{FirstName: strings.Repeat("x", 101)}}
	bobID := newID("bob").String()
	session := service("session")
	for _, tt := range []struct {
		name    string
		headers []string // of "authorization"
		req     proto.Message
		want    fault.Kind
		says    string // the caller, or the message
	}{
		{"anyone, with nothing", nil, create, "", "00000000-0000-0000-0000-000000000000 []  "},
		{"anyone, signed in", []string{"Bearer " + bob}, create, "", bobID + " " + plain.Session.String() + " []  us-east"},
		{"anyone, expired", []string{"Bearer " + old}, create, fault.Unauthenticated, "has expired"},
		{"anyone, ended session", []string{"Bearer " + dead}, create, fault.Unauthenticated, "session has ended"},
		{"anyone, nonsense", []string{"Bearer x"}, create, fault.Unauthenticated, "not valid"},
		{"anyone, invalid", nil, badCreate, fault.Invalid, ""},
		{"nobody", nil, get(bobID), fault.Unauthenticated, "sign in"},
		{"nobody, invalid", nil, &userv1.UpdateUserRequest{User: badCreate.GetUser()}, fault.Unauthenticated, "sign in"},
		{"owner", []string{"Bearer " + bob}, get(bobID), "", bobID},
		{"owner, other case", []string{"bearer " + bob}, get(strings.ToUpper(bobID)), "", bobID},
		{"owner, in a message", []string{"Bearer " + bob}, &userv1.UpdateUserRequest{User: &userv1.User{Id: bobID}}, "", bobID},
		{"owner, invalid", []string{"Bearer " + bob}, &userv1.UpdateUserRequest{User: &userv1.User{Id: bobID, FirstName: strings.Repeat("x", 101)}}, fault.Invalid, ""},
		{"stranger", []string{"Bearer " + bob}, get(newID("alice").String()), fault.Forbidden, "may not"},
		{"stranger, invalid", []string{"Bearer " + bob}, &userv1.UpdateUserRequest{User: &userv1.User{Id: newID("alice").String(), FirstName: strings.Repeat("x", 101)}}, fault.Forbidden, ""},
		{"stranger, no id", []string{"Bearer " + bob}, get(""), fault.Forbidden, ""},
		{"stranger, no user", []string{"Bearer " + bob}, &userv1.UpdateUserRequest{}, fault.Forbidden, ""},
		{"stranger, no UUID", []string{"Bearer " + bob}, get("x"), fault.Forbidden, ""},
		{"admin", []string{"Bearer " + admin}, get(bobID), "", "[admin]"},
		{"service", []string{"Bearer " + session}, get(bobID), "", " session us-east"},
		{"service that is not named", []string{"Bearer " + service("stranger")}, get(bobID), fault.Forbidden, ""},
		{"service that is not named here", []string{"Bearer " + session}, &userv1.UpdateUserRequest{User: &userv1.User{Id: bobID}}, fault.Forbidden, ""},
		{"owner, expired", []string{"Bearer " + old}, get(bobID), fault.Unauthenticated, "has expired"},
		{"owner, ended session", []string{"Bearer " + dead}, get(bobID), fault.Unauthenticated, "session has ended"},
		{"empty header", []string{""}, create, fault.Unauthenticated, "not valid"},
		{"no scheme", []string{bob}, create, fault.Unauthenticated, "not valid"},
		{"other scheme", []string{"Basic " + bob}, create, fault.Unauthenticated, "not valid"},
		{"two tokens", []string{"Bearer " + bob, "Bearer " + bob}, create, fault.Unauthenticated, "not valid"},
		{"two spaces", []string{"Bearer  " + bob}, create, fault.Unauthenticated, "not valid"},
	} {
		for way, c := range map[string]grpc.ClientConnInterface{"gRPC": conn, "in process": server.Conn()} {
			t.Run(tt.name+", "+way, func(t *testing.T) {
				ctx := t.Context()
				for _, h := range tt.headers {
					ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
				}
				client := userv1.NewUserServiceClient(c)
				var got *userv1.User
				var err error
				switch r := proto.Clone(tt.req).(type) {
				case *userv1.GetUserRequest:
					got, err = client.GetUser(ctx, r)
				case *userv1.CreateUserRequest:
					got, err = client.CreateUser(ctx, r)
				case *userv1.UpdateUserRequest:
					got, err = client.UpdateUser(ctx, r)
				}
				f := fault.FromStatus(err)
				switch {
				case tt.want == "" && (err != nil || !strings.Contains(got.GetLastName(), tt.says)):
					t.Errorf("got %v, %v", got, err)
				case tt.want != "" && (f == nil || f.Kind != tt.want || !strings.Contains(f.Message, tt.says)):
					t.Errorf("got %v, %v", got, err)
				}
			})
		}
	}
	if _, err := healthv1.NewHealthClient(conn).Check(bearer(t.Context(), "nonsense"), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("health looks at tokens: %v", err)
	}
	got := values(t, reader, "antipode.auth.tokens")
	for _, outcome := range []string{"valid", "invalid", "expired", "revoked"} {
		if got["outcome="+outcome] == 0 {
			t.Errorf("no token was counted as %s: %v", outcome, got)
		}
	}
	if _, shown := got["outcome=unknown_key"]; !shown {
		t.Errorf("what has not happened is not shown: %v", got)
	}
}

// Streams are judged when they open; a follower gets in as the service that it is.
func TestGuardOfStreams(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	here, there := w.open("us-east"), w.open("eu-west")
	p := newPublisher(t, w.clock, true)
	g := newGuard(t, GuardConfig{Keys: there})
	credentials := ServiceCredentials(here, "asset")
	_, conn, _ := serve(t, rpc.Config{Access: g}, rpc.ClientConfig{Credentials: credentials}, func(s *rpc.Server) {
		authv1.RegisterRevocationServiceServer(s, p)
		reflection.Register(s)
	})
	f := newFollower(t, conn, w.clock)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	eventually(t, "the follower is let in", func() bool { _, known := f.Age(); return known })
	w.clock.forward(2 * Life)
	if err := p.Add(EndedSession(newID("s"), w.clock.Now())); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream outlives its token", func() bool { return f.set.Len() == 1 })
	cancel()
	<-done

	for token, want := range map[string]fault.Kind{"": fault.Unauthenticated, "nonsense": fault.Unauthenticated, w.token(here, alice()): fault.Forbidden} {
		_, plain, _ := serve(t, rpc.Config{Access: g}, rpc.ClientConfig{}, func(s *rpc.Server) { authv1.RegisterRevocationServiceServer(s, p) })
		ctx := t.Context()
		if token != "" {
			ctx = bearer(ctx, token)
		}
		stream, err := authv1.NewRevocationServiceClient(plain).Watch(ctx, &authv1.WatchRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if got := fault.FromStatus(err); got == nil || got.Kind != want {
			t.Errorf("token %.8q: %v, want %s", token, err, want)
		}
	}
	ask, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ask.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}), ask.CloseSend()); err != nil {
		t.Fatal(err)
	}
	if _, err := ask.Recv(); err != nil {
		t.Errorf("reflection is closed: %v", err)
	}
}

// A service that the guard was not told of cannot be served.
func TestGuardCoversAllServices(t *testing.T) {
	w := newWorld(t, "us-east")
	g := newGuard(t, GuardConfig{Keys: w.open("us-east"), Services: []string{authv1.RevocationService_ServiceDesc.ServiceName}})
	s, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Access: g})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "UserService") {
			t.Errorf("got %v", p)
		}
	}()
	userv1.RegisterUserServiceServer(s, users{})
	t.Error("was registered")
}

func TestGuardIsNotMade(t *testing.T) {
	w := newWorld(t, "us-east")
	k := w.open("us-east")
	for name, cfg := range map[string]GuardConfig{
		"no keys":            {Services: []string{userv1.UserService_ServiceDesc.ServiceName}},
		"no set":             {Keys: k, Revoked: []*Revoked{nil}},
		"no such service":    {Keys: k, Services: []string{"antipode.user.v1.Nothing"}},
		"no service":         {Keys: k, Services: []string{"antipode.user.v1.User"}},
		"RPCs without rules": {Keys: k, Services: []string{"antipode.replication.v1.SyncService"}},
	} {
		if _, err := NewGuard(cfg); err == nil {
			t.Errorf("%s: was made", name)
		}
	}
	_, err := NewGuard(GuardConfig{Keys: k, Services: []string{"antipode.replication.v1.SyncService"}})
	for _, rpc := range []string{"antipode.replication.v1.SyncService.Digest", "antipode.replication.v1.SyncService.DropDeadLetter"} {
		if err == nil || !strings.Contains(err.Error(), rpc+": it has no option") {
			t.Errorf("%s is not named: %v", rpc, err)
		}
	}
}

// described is a service of one method with an access, made at run time.
func described(t *testing.T, access *authv1.Access, stream bool) protoreflect.ServiceDescriptor {
	t.Helper()
	options := &descriptorpb.MethodOptions{}
	if access != nil {
		proto.SetExtension(options, authv1.E_Access, access)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("test.proto"), Package: proto.String("test"), Syntax: proto.String("proto3"),
		Dependency: []string{"antipode/user/v1/user.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Service"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("Do"), InputType: proto.String(".antipode.user.v1.UpdateUserRequest"), OutputType: proto.String(".antipode.user.v1.User"),
			Options: options, ServerStreaming: proto.Bool(stream),
		}}}},
	}, &fileResolver{})
	if err != nil {
		t.Fatal(err)
	}
	return file.Services().Get(0)
}

type fileResolver struct{}

func (fileResolver) FindFileByPath(string) (protoreflect.FileDescriptor, error) {
	return userv1.File_antipode_user_v1_user_proto, nil
}

func (fileResolver) FindDescriptorByName(n protoreflect.FullName) (protoreflect.Descriptor, error) {
	return userv1.File_antipode_user_v1_user_proto.Messages().ByName(n.Name()), nil
}

func TestAccessThatMakesNoSense(t *testing.T) {
	owner := func(field string) *authv1.Access { return &authv1.Access{Owner: &authv1.Owner{Field: field}} }
	for name, tt := range map[string]struct {
		access *authv1.Access
		stream bool
		says   string
	}{
		"none":                      {nil, false, "test.Service.Do: it has no option"},
		"nobody":                    {&authv1.Access{}, false, "names nobody"},
		"anyone and admins":         {&authv1.Access{Anyone: true, Admin: true}, false, "beside anyone"},
		"users and admins":          {&authv1.Access{User: true, Admin: true}, false, "beside every user"},
		"users and the owner":       {&authv1.Access{User: true, Owner: &authv1.Owner{Field: "user.id"}}, false, "beside every user"},
		"service without a name":    {&authv1.Access{Services: []string{""}}, false, "no name"},
		"owner without a field":     {owner(""), false, "does not lead"},
		"owner in no field":         {owner("user.name"), false, "does not lead"},
		"owner that is a message":   {owner("user"), false, "does not lead"},
		"owner in a string":         {owner("user.id.x"), false, "does not lead"},
		"owner among many":          {owner("user.phone_numbers"), false, "does not lead"},
		"owner that is no string":   {owner("user.create_time.seconds"), false, "does not lead"},
		"owner of a stream":         {owner("user.id"), true, "a stream"},
		"good":                      {owner("user.id"), false, ""},
		"good, deeper":              {owner("user.address.city"), false, ""},
		"good stream":               {&authv1.Access{User: true}, true, ""},
		"good, all that can be":     {&authv1.Access{Admin: true, Owner: &authv1.Owner{Field: "user.id"}, Services: []string{"a"}}, false, ""},
		"good, open to all callers": {&authv1.Access{Anyone: true}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tableOf([]protoreflect.ServiceDescriptor{described(t, tt.access, tt.stream)})
			if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestEmptyOwner(t *testing.T) {
	bob := Caller{User: newID("bob"), Session: newID("s")}
	for _, mine := range []bool{true, false} {
		access := &authv1.Access{Owner: &authv1.Owner{Field: "user.id", EmptyIsCaller: mine}}
		table, err := tableOf([]protoreflect.ServiceDescriptor{described(t, access, false)})
		if err != nil {
			t.Fatal(err)
		}
		r := table.rules["/test.Service/Do"]
		for _, req := range []proto.Message{&userv1.UpdateUserRequest{}, &userv1.UpdateUserRequest{User: &userv1.User{}}} {
			if r.allows(bob, req) != mine || r.allows(Caller{}, req) || r.allows(Caller{Service: "session"}, req) {
				t.Errorf("empty is the caller: %t; allowed: %t", mine, r.allows(bob, req))
			}
		}
		if r.allows(bob, &userv1.UpdateUserRequest{User: &userv1.User{Id: newID("alice").String()}}) {
			t.Error("a stranger is let through")
		}
	}
}

func TestRows(t *testing.T) {
	table, err := NewTable(authv1.RevocationService_ServiceDesc.ServiceName)
	if err != nil {
		t.Fatal(err)
	}
	watch := "/antipode.auth.v1.RevocationService/Watch"
	want := []Row{
		{watch, Anonymous, false, ""},
		{watch, User, false, ""},
		{watch, Admin, false, ""},
		{watch, ServiceActor("asset"), true, ""},
		{watch, ServiceActor("session"), true, ""},
		{watch, ServiceActor("stranger"), false, ""},
		{watch, ServiceActor("user"), true, ""},
	}
	if got := table.Rows(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestServiceCredentials(t *testing.T) {
	w := newWorld(t, "us-east")
	k := w.open("us-east")
	c := ServiceCredentials(k, "session")
	token := func() string {
		t.Helper()
		md, err := c.GetRequestMetadata(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text, ok := strings.CutPrefix(md["authorization"], "Bearer ")
		claims, err := k.Verify(text)
		if !ok || err != nil || claims.Service != "session" {
			t.Fatalf("%v: %+v, %v", md, claims, err)
		}
		return text
	}
	first := token()
	w.clock.forward(Life/2 - time.Second)
	if token() != first {
		t.Error("the token was not kept")
	}
	w.clock.forward(time.Second)
	second := token()
	if second == first {
		t.Error("the token was not renewed")
	}
	w.clock.forward(-time.Hour) // somebody has set the clock
	if token() == second {
		t.Error("a token from the future was sent")
	}
}
