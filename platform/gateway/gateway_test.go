package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/emptypb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// users is a user service whose answers tell what reached it. An id decides what GetUser does.
type users struct {
	userv1.UnimplementedUserServiceServer
	entered chan struct{} // receives when a "block" begins
	release chan struct{} // ends a "block"
	mu      sync.Mutex
	calls   int
}

var (
	johnID  = id.Keyed([]byte("test"), "john")
	johnVec = causal.Vector{causal.NewReplica(1, 1): 7}
)

func (u *users) count() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls++
}

func (u *users) called() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.calls
}

func (u *users) CreateUser(ctx context.Context, r *userv1.CreateUserRequest) (*userv1.User, error) {
	u.count()
	c := rpc.FromContext(ctx)
	c.Observe("user", johnID, johnVec, 99)
	c.SetDurability(c.Durability)
	r.GetUser().Id = c.IdempotencyKey
	return r.GetUser(), nil
}

func (u *users) UpdateUser(_ context.Context, r *userv1.UpdateUserRequest) (*userv1.User, error) {
	u.count()
	r.GetUser().DisplayName = strings.Join(r.GetUpdateMask().GetPaths(), ",")
	return r.GetUser(), nil
}

func (u *users) DeleteUser(context.Context, *userv1.DeleteUserRequest) (*emptypb.Empty, error) {
	u.count()
	return &emptypb.Empty{}, nil
}

func (u *users) ListUsers(_ context.Context, r *userv1.ListUsersRequest) (*userv1.ListUsersResponse, error) {
	u.count()
	return &userv1.ListUsersResponse{NextPageToken: r.GetPageToken()}, nil
}

func (u *users) GetUser(ctx context.Context, r *userv1.GetUserRequest) (*userv1.User, error) {
	u.count()
	c := rpc.FromContext(ctx)
	switch r.GetId() {
	case "panic":
		panic("secret of the operator")
	case "missing":
		c.Observe("user", johnID, johnVec, 99)
		return nil, fault.New(fault.NotFound, "there is no user %s", r.GetId())
	case "plain":
		return nil, io.ErrUnexpectedEOF
	case "retry":
		return nil, fault.New(fault.RateLimited, "slow down").After(1500 * time.Millisecond)
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	case "block":
		u.entered <- struct{}{}
		<-u.release
	case "token":
		return &userv1.User{Id: c.Token.Vector("user", johnID).String(), Etag: string(c.Read)}, nil
	case "stale":
		c.SetStale()
	case "source":
		return &userv1.User{Id: c.Source}, nil
	}
	return &userv1.User{Id: r.GetId(), FirstName: "John", PhoneNumbers: []string{"+12125551234"}, Address: &userv1.Address{City: "New York"}}, nil
}

type fixture struct {
	users  *users
	server *Server
	base   string // of REST
	addr   string
	client userv1.UserServiceClient
	http   *http.Client
	logs   *safeBuffer
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func sealer(t testing.TB) *causal.Sealer {
	t.Helper()
	s, err := causal.NewSealer(causal.Key{ID: "1", Secret: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T) *fixture {
	t.Helper()
	return startWith(t, nil)
}

func startWith(t *testing.T, access rpc.Access) *fixture {
	t.Helper()
	f := &fixture{users: &users{entered: make(chan struct{}, 16), release: make(chan struct{})}, logs: &safeBuffer{}}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(f.logs, t.Output()), nil))
	server, err := rpc.NewServer(rpc.Config{Log: log, Sealer: sealer(t), Access: access, Deadlines: rpc.Deadlines{Default: 5 * time.Second}})
	if err != nil {
		t.Fatal(err)
	}
	userv1.RegisterUserServiceServer(server, f.users)
	doc, err := os.ReadFile("../../api/openapi/antipode.swagger.json")
	if err != nil {
		t.Fatal(err)
	}
	f.server, err = New(t.Context(), Config{Log: log, Server: server, Register: register, OpenAPI: doc, Plain: photos})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(l) }()
	f.addr = l.Addr().String()
	f.base = "http://" + f.addr
	f.http = &http.Client{Transport: &http.Transport{}}
	conn, err := rpc.NewClient(rpc.ClientConfig{Addresses: []string{f.addr}})
	if err != nil {
		t.Fatal(err)
	}
	f.client = userv1.NewUserServiceClient(conn)
	t.Cleanup(func() {
		f.http.CloseIdleConnections()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		if err := f.server.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return f
}

// register has the routes of all services, as the document lists them.
func register(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
	return errors.Join(
		userv1.RegisterUserServiceHandlerClient(ctx, mux, userv1.NewUserServiceClient(conn)),
		sessionv1.RegisterSessionServiceHandlerClient(ctx, mux, sessionv1.NewSessionServiceClient(conn)),
		assetv1.RegisterAssetServiceHandlerClient(ctx, mux, assetv1.NewAssetServiceClient(conn)),
	)
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) problem(t *testing.T) fault.Problem {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != fault.ProblemType {
		t.Errorf("content type %q, want %q; body %s", got, fault.ProblemType, a.body)
	}
	d := json.NewDecoder(strings.NewReader(a.body))
	d.DisallowUnknownFields()
	var p fault.Problem
	if err := d.Decode(&p); err != nil {
		t.Fatalf("%v in %q", err, a.body)
	}
	if p.Status != a.status {
		t.Errorf("status in document %d, of answer %d", p.Status, a.status)
	}
	return p
}

func (f *fixture) do(t *testing.T, method, path, body string, header http.Header) answer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, f.base+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// TestSource: who the client is, is the same over REST and gRPC: whom the load balancer names, and not the balancer.
func TestSource(t *testing.T) {
	f := start(t)
	for forwarded, want := range map[string]string{"": "127.0.0.1", "192.0.2.7": "192.0.2.7", "127.0.0.1, 2001:DB8::1": "2001:db8::1"} {
		header, ctx := http.Header{"Grpc-Metadata-X-Forwarded-For": {"203.0.113.1"}}, t.Context()
		if forwarded != "" {
			header.Set(rpc.HeaderForwardedFor, forwarded)
			ctx = metadata.AppendToOutgoingContext(ctx, rpc.HeaderForwardedFor, forwarded)
		}
		a := f.do(t, http.MethodGet, "/v1/users/source", "", header)
		var rest userv1.User
		if err := protojson.Unmarshal([]byte(a.body), &rest); err != nil || rest.GetId() != want {
			t.Errorf("%q over REST: %v, %s; want %q", forwarded, err, a.body, want)
		}
		u, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: "source"})
		if err != nil || u.GetId() != want {
			t.Errorf("%q over gRPC: %v, %v; want %q", forwarded, u, err, want)
		}
	}
}

func TestBadInput(t *testing.T) {
	f := start(t)
	long := strings.Repeat("x", 20_000)
	for _, tt := range []struct {
		name, method, path, body string
		header                   http.Header
		status                   int
		reason                   fault.Kind
		field                    string // of the first violation
		detail                   string // part of the detail or of the first description
	}{
		{"unknown field", "POST", "/v1/users", `{"email":"a@b.c","nick":"x"}`, nil, 400, fault.Invalid, "user.nick", "unknown field"},
		{"unknown nested field", "POST", "/v1/users", "{\"email\":\"a@b.c\",\n \"address\":{\"city\":\"x\",\n\"zip\":1}}", nil, 400, fault.Invalid, "user.address.zip", "unknown field"},
		{"duplicate field", "POST", "/v1/users", `{"email":"a@b.c","email":"x"}`, nil, 400, fault.Invalid, "user.email", "duplicate"},
		{"wrong type", "POST", "/v1/users", `{"firstName":3}`, nil, 400, fault.Invalid, "user.first_name", "invalid value"},
		{"wrong type in list", "POST", "/v1/users", `{"phoneNumbers":["+12125551234", {"a":[1]}]}`, nil, 400, fault.Invalid, "user.phone_numbers[1]", ""},
		{"wrong type of object", "POST", "/v1/users", `{"address":[]}`, nil, 400, fault.Invalid, "user.address", ""},
		{"bad timestamp", "POST", "/v1/users", `{"createTime":"yesterday"}`, nil, 400, fault.Invalid, "user.create_time", ""},
		{"body is a list", "POST", "/v1/users", `[1]`, nil, 400, fault.Invalid, "", ""},
		{"cut JSON", "POST", "/v1/users", `{"firstName":`, nil, 400, fault.Invalid, "", "unexpected EOF"},
		{"not JSON", "POST", "/v1/users", "{\n\"firstName\": John}", nil, 400, fault.Invalid, "", "line 2, column 14"},
		{"two documents", "POST", "/v1/users", `{}{}`, nil, 400, fault.Invalid, "", "is not JSON"},
		{"no body", "POST", "/v1/users", "", nil, 400, fault.Invalid, "user", "required"},
		{"rule", "POST", "/v1/users", `{"phoneNumbers":["+12125551234","12"]}`, nil, 400, fault.Invalid, "user.phone_numbers[1]", "pattern"},
		{"10 MiB", "POST", "/v1/users", `{"firstName":"` + strings.Repeat("x", 10<<20) + `"}`, nil, 413, fault.TooLarge, "", "1048576"},
		{"wrong content type", "POST", "/v1/users", `a=b`, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 415, fault.Invalid, "content-type", "application/json"},
		{"wrong charset", "POST", "/v1/users", `{}`, http.Header{"Content-Type": {"application/json; charset=latin1"}}, 415, fault.Invalid, "content-type", ""},
		{"compressed", "POST", "/v1/users", `{}`, http.Header{"Content-Encoding": {"gzip"}}, 415, fault.Invalid, "content-encoding", ""},
		{"wrong method", "PUT", "/v1/users/1", `{}`, nil, 405, fault.Invalid, "", "DELETE, GET, PATCH"},
		{"method override", "POST", "/v1/users/1", `{}`, http.Header{"X-Http-Method-Override": {"DELETE"}}, 405, fault.Invalid, "", "DELETE, GET, PATCH"},
		{"form to GET", "POST", "/v1/users:lookup", `a=b`, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 405, fault.Invalid, "", "GET"},
		{"wrong path", "GET", "/v2/users", "", nil, 404, fault.NotFound, "", ""},
		{"body on GET", "GET", "/v1/users/1", `{}`, nil, 400, fault.Invalid, "", "takes no body"},
		{"unknown parameter", "GET", "/v1/users?pagesize=3", "", nil, 400, fault.Invalid, "pagesize", "no such"},
		{"parameter of wrong type", "GET", "/v1/users?pageSize=three", "", nil, 400, fault.Invalid, "page_size", "three"},
		{"parameter twice", "GET", "/v1/users?pageSize=3&pageSize=4", "", nil, 400, fault.Invalid, "page_size", ""},
		{"bad query", "GET", "/v1/users?a=%zz", "", nil, 400, fault.Invalid, "", "%zz"},
		{"forged token", "GET", "/v1/users/1", "", http.Header{rpc.HeaderToken: {"bm90IGEgdG9rZW4"}}, 400, fault.Invalid, rpc.HeaderToken, "not a token"},
		{"oversize token", "GET", "/v1/users/1", "", http.Header{rpc.HeaderToken: {long}}, 400, fault.Invalid, rpc.HeaderToken, "not a token"},
		{"two tokens", "GET", "/v1/users/1", "", http.Header{rpc.HeaderToken: {"a", "b"}}, 400, fault.Invalid, rpc.HeaderToken, "once"},
		{"read mode", "GET", "/v1/users/1", "", http.Header{rpc.HeaderRead: {"now"}}, 400, fault.Invalid, rpc.HeaderRead, "stale-ok"},
		{"durability", "GET", "/v1/users/1", "", http.Header{rpc.HeaderDurability: {"forever"}}, 400, fault.Invalid, rpc.HeaderDurability, "remote"},
		{"long key", "POST", "/v1/users", `{}`, http.Header{rpc.HeaderIdempotencyKey: {long}}, 400, fault.Invalid, rpc.HeaderIdempotencyKey, "128"},
		{"empty key", "POST", "/v1/users", `{}`, http.Header{rpc.HeaderIdempotencyKey: {""}}, 400, fault.Invalid, rpc.HeaderIdempotencyKey, "128"},
		{"key not ASCII", "POST", "/v1/users", `{}`, http.Header{rpc.HeaderIdempotencyKey: {"clé"}}, 400, fault.Invalid, rpc.HeaderIdempotencyKey, "ASCII"},
		{"bad timeout", "GET", "/v1/users/1", "", http.Header{"Grpc-Timeout": {"soon"}}, 400, fault.Invalid, "grpc-timeout", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := f.users.called()
			a := f.do(t, tt.method, tt.path, tt.body, tt.header)
			p := a.problem(t)
			if a.status != tt.status || p.Reason != tt.reason {
				t.Errorf("%d %s, want %d %s: %s", a.status, p.Reason, tt.status, tt.reason, a.body)
			}
			text := p.Detail
			if tt.field != "" {
				if len(p.Violations) == 0 || p.Violations[0].Field != tt.field {
					t.Fatalf("violations %v, want one of %q: %s", p.Violations, tt.field, a.body)
				}
				text += p.Violations[0].Description
			} else if len(p.Violations) > 0 {
				t.Errorf("violations %v, want none", p.Violations)
			}
			if !strings.Contains(text, tt.detail) {
				t.Errorf("%q does not say %q", text, tt.detail)
			}
			if p.RequestID == "" || a.header.Get(rpc.HeaderRequestID) != p.RequestID {
				t.Errorf("request id %q in the document, %q in the header", p.RequestID, a.header.Get(rpc.HeaderRequestID))
			}
			if a.status == 405 && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			if f.users.called() != before {
				t.Error("the request reached the service")
			}
		})
	}
}

// TestSameReason sends the same requests over gRPC and REST.
func TestSameReason(t *testing.T) {
	f := start(t)
	get := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: name})
			return err
		}
	}
	create := func(u *userv1.User) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := f.client.CreateUser(ctx, &userv1.CreateUserRequest{User: u})
			return err
		}
	}
	for _, tt := range []struct {
		name         string
		grpc         func(context.Context) error
		method, path string
		body         string
		header       []string // names and values
		reason       fault.Kind
		fields       []string
	}{
		{"not found", get("missing"), "GET", "/v1/users/missing", "", nil, fault.NotFound, nil},
		{"unclassified", get("plain"), "GET", "/v1/users/plain", "", nil, fault.Internal, nil},
		{"panic", get("panic"), "GET", "/v1/users/panic", "", nil, fault.Internal, nil},
		{"retry", get("retry"), "GET", "/v1/users/retry", "", nil, fault.RateLimited, nil},
		{"forged token", get("1"), "GET", "/v1/users/1", "", []string{rpc.HeaderToken, "xx"}, fault.Invalid, []string{rpc.HeaderToken}},
		{"two headers", get("1"), "GET", "/v1/users/1", "", []string{rpc.HeaderRead, "xx", rpc.HeaderDurability, "yy"}, fault.Invalid, []string{rpc.HeaderRead, rpc.HeaderDurability}},
		{
			"validation", create(&userv1.User{PhoneNumbers: []string{"1"}, Address: &userv1.Address{Country: "usa"}}), "POST", "/v1/users",
			`{"phoneNumbers":["1"],"address":{"country":"usa"}}`, nil, fault.Invalid,
			[]string{"user.address.country", "user.phone_numbers[0]"},
		},
		{"required", create(nil), "POST", "/v1/users", "", nil, fault.Invalid, []string{"user"}},
		{"unimplemented", func(ctx context.Context) error {
			_, err := f.client.LookupUser(ctx, &userv1.LookupUserRequest{Email: "a@b.c"})
			return err
		}, "GET", "/v1/users:lookup?email=a@b.c", "", nil, fault.NotFound, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := http.Header{}
			for i := 0; i < len(tt.header); i += 2 {
				h.Set(tt.header[i], tt.header[i+1])
			}
			a := f.do(t, tt.method, tt.path, tt.body, h)
			p := a.problem(t)
			g := fault.FromStatus(tt.grpc(metadata.AppendToOutgoingContext(t.Context(), tt.header...)))
			if p.Reason != tt.reason || g.Kind != tt.reason {
				t.Fatalf("REST %s, gRPC %s, want %s", p.Reason, g.Kind, tt.reason)
			}
			if p.Detail != g.Message {
				t.Errorf("REST %q, gRPC %q", p.Detail, g.Message)
			}
			for _, violations := range [][]fault.Violation{p.Violations, g.Violations} {
				var fields []string
				for _, v := range violations {
					fields = append(fields, v.Field)
				}
				if strings.Join(fields, " ") != strings.Join(tt.fields, " ") {
					t.Errorf("violations %q, want %q", fields, tt.fields)
				}
			}
			if strings.Contains(a.body+g.Message, "secret") || strings.Contains(a.body+g.Message, "EOF") {
				t.Errorf("the operator's detail got out: %s %s", a.body, g.Message)
			}
			if tt.reason == fault.RateLimited && (a.header.Get("Retry-After") != "2" || g.RetryAfter != 1500*time.Millisecond) {
				t.Errorf("retry after %q, %s", a.header.Get("Retry-After"), g.RetryAfter)
			}
		})
	}
	if !strings.Contains(f.logs.String(), "secret of the operator") {
		t.Error("the log does not tell the panic")
	}
}

func TestProblemDocument(t *testing.T) {
	f := start(t)
	a := f.do(t, "POST", "/v1/users", `{"email":"a@b.c","nick":"x"}`, http.Header{rpc.HeaderRequestID: {"req-1"}})
	const want = `{"type":"https://antipode.example/problems/invalid","title":"The request is not valid","status":400,` +
		`"detail":"the body is not valid","reason":"invalid","violations":[{"field":"user.nick","description":"unknown field \"nick\""}],"requestId":"req-1"}`
	if a.body != want {
		t.Errorf("got\n%s\nwant\n%s", a.body, want)
	}
}

func TestCausalTokenTravels(t *testing.T) {
	f := start(t)
	created := f.do(t, "POST", "/v1/users", `{"email":"a@b.c"}`, http.Header{rpc.HeaderDurability: {"remote"}, rpc.HeaderIdempotencyKey: {"key 1"}})
	if created.status != 200 || created.header.Get(rpc.HeaderDurability) != "remote" || !strings.Contains(created.body, `"key 1"`) {
		t.Fatalf("%+v", created)
	}
	for k := range created.header {
		if strings.HasPrefix(k, "Grpc-") {
			t.Errorf("header %s", k)
		}
	}
	token := created.header.Get(rpc.HeaderToken)

	var back metadata.MD
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpc.HeaderToken, token, rpc.HeaderRead, "stale-ok")
	u, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: "token"}, grpc.Header(&back))
	if err != nil || u.GetId() != "{1.1:7}" || u.GetEtag() != "stale-ok" {
		t.Fatalf("the token of REST says %v over gRPC: %v", u, fault.FromStatus(err).Violations)
	}
	if len(back[rpc.HeaderToken]) != 1 || len(back[rpc.HeaderRequestID]) != 1 {
		t.Fatalf("gRPC headers %v", back)
	}
	a := f.do(t, "GET", "/v1/users/token", "", http.Header{rpc.HeaderToken: back[rpc.HeaderToken]})
	if !strings.Contains(a.body, "{1.1:7}") {
		t.Errorf("the token of gRPC says %s over REST", a.body)
	}

	missing := f.do(t, "GET", "/v1/users/missing", "", nil)
	opened, err := sealer(t).Open(missing.header.Get(rpc.HeaderToken))
	if err != nil || !opened.Vector("user", johnID).Equal(johnVec) {
		t.Errorf("the token of an error covers %v: %v", opened, err)
	}
	if stale := f.do(t, "GET", "/v1/users/stale", "", nil); stale.header.Get(rpc.HeaderStale) != "true" {
		t.Errorf("headers %v", stale.header)
	}
}

func TestAnswer(t *testing.T) {
	f := start(t)
	a := f.do(t, "GET", "/v1/users/1", "", nil)
	var got map[string]any
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
		t.Fatalf("%v: %+v", err, a)
	}
	if got["displayName"] != "" || got["firstName"] != "John" || got["address"].(map[string]any)["city"] != "New York" {
		t.Errorf("got %s", a.body)
	}
	if a.header.Get("Content-Length") == "" || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", a.header)
	}
	for path, mask := range map[string]string{"/v1/users/1": "first_name,address.city", "/v1/users/1?updateMask=email": "email"} {
		a := f.do(t, "PATCH", path, `{"firstName":"J","address":{"city":"x"}}`, nil)
		_ = json.Unmarshal([]byte(a.body), &got)
		if got["displayName"] != mask && got["displayName"] != "address.city,first_name" || got["id"] != "1" {
			t.Errorf("%s: %s", path, a.body)
		}
	}
}

func TestDeadline(t *testing.T) {
	f := start(t)
	a := f.do(t, "GET", "/v1/users/slow", "", http.Header{"Grpc-Timeout": {"50m"}})
	if p := a.problem(t); p.Reason != fault.Deadline || a.status != 504 {
		t.Errorf("%s", a.body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: "slow"}); fault.FromStatus(err).Kind != fault.Deadline {
		t.Errorf("gRPC: %v", err)
	}
}

func TestOversizeHeader(t *testing.T) {
	f := start(t)
	big := strings.Repeat("x", rpc.MaxHeaderBytes+8<<10)
	if a := f.do(t, "GET", "/v1/users/1", "", http.Header{"X-Big": {big}}); a.status != 431 {
		t.Errorf("REST: %d", a.status)
	}
	_, err := f.client.GetUser(metadata.AppendToOutgoingContext(t.Context(), "x-big", big), &userv1.GetUserRequest{Id: "1"})
	if err == nil {
		t.Error("gRPC accepts oversize headers")
	}
	if _, err := f.client.GetUser(t.Context(), &userv1.GetUserRequest{Id: "1"}); err != nil {
		t.Errorf("after an oversize header: %v", err)
	}
}
