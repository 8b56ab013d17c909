package gateway

import (
	"io"
	"net/http"
	"strings"
	"testing"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

// photos are plain handlers that ask the user service.
func photos(p *Plain) {
	client := userv1.NewUserServiceClient(p.Conn())
	p.Handle("PUT /v1/users/{id}/photo", func(w http.ResponseWriter, r *http.Request) error {
		if _, err := client.CreateUser(r.Context(), &userv1.CreateUserRequest{User: &userv1.User{}}); err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, r.PathValue("id")+" "+strings.Repeat("x", int(n>>20)))
		return err
	})
	p.Handle("GET /v1/users/{id}/photo", func(_ http.ResponseWriter, r *http.Request) error {
		_, err := client.GetUser(r.Context(), &userv1.GetUserRequest{Id: r.PathValue("id")})
		return err
	})
	p.Handle("GET /v1/users/{id}/half", func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "half")
		return fault.New(fault.Unavailable, "no more")
	})
	p.Handle("GET /v1/users/{id}/panic", func(http.ResponseWriter, *http.Request) error { panic("photo") })
}

// Plain handlers stand beside REST routes, take bodies of any size, ask RPCs as their caller, and answer what these say.
func TestPlain(t *testing.T) {
	f := start(t)
	sent := http.Header{rpc.HeaderDurability: {"remote"}, rpc.HeaderRequestID: {"mine"}, "Content-Type": {"image/png"}}
	a := f.do(t, "PUT", "/v1/users/john/photo", strings.Repeat("x", 3<<20), sent)
	if a.status != http.StatusOK || a.body != "john xxx" {
		t.Errorf("put: %d %s", a.status, a.body)
	}
	for name, want := range map[string]string{rpc.HeaderDurability: "remote", rpc.HeaderRequestID: "mine"} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if a.header.Get(rpc.HeaderToken) == "" {
		t.Error("the answer has no causal token")
	}
	if a := f.do(t, "GET", "/v1/users/john/half", "", nil); a.status != http.StatusOK || a.body != "half" {
		t.Errorf("an error after the beginning: %d %s", a.status, a.body)
	}
	for _, tt := range []struct {
		method, path string
		header       http.Header
		status       int
		reason       fault.Kind
	}{
		{"GET", "/v1/users/missing/photo", nil, 404, fault.NotFound},
		{"PUT", "/v1/users/john/photo", http.Header{rpc.HeaderDurability: {"forever"}}, 400, fault.Invalid},
		{"PUT", "/v1/users/john/photo", http.Header{rpc.HeaderIdempotencyKey: {"clé"}}, 400, fault.Invalid},
		{"POST", "/v1/users/john/photo", nil, 405, fault.Invalid},
		{"GET", "/v1/users/john/nothing", nil, 404, fault.NotFound},
		{"GET", "/v1/users/john/panic", nil, 500, fault.Internal},
	} {
		a := f.do(t, tt.method, tt.path, "", tt.header)
		if p := a.problem(t); a.status != tt.status || p.Reason != tt.reason {
			t.Errorf("%s %s: %d %s, want %d %s", tt.method, tt.path, a.status, p.Reason, tt.status, tt.reason)
		}
		if allow := a.header.Get("Allow"); tt.status == 405 && allow != "GET, PUT" {
			t.Errorf("%s %s: allow %q", tt.method, tt.path, allow)
		}
	}
	if a := f.do(t, "GET", "/v1/users/john", "", nil); a.status != http.StatusOK {
		t.Errorf("a REST route beside them: %d %s", a.status, a.body)
	}
}
