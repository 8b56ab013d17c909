package gateway

import (
	"net/http"
	"testing"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

// Who may call what holds over REST as it does over gRPC, and a refusal says by what one could get in.
func TestAccess(t *testing.T) {
	all := authtest.Keys(t, "us-east", hlc.System{})
	guard, err := auth.NewGuard(auth.GuardConfig{Keys: all, Services: []string{userv1.UserService_ServiceDesc.ServiceName}})
	if err != nil {
		t.Fatal(err)
	}
	f := startWith(t, guard)
	session := id.Keyed([]byte("test"), "session")
	john, _, err := all.IssueUser(auth.Grant{User: johnID, Session: session})
	if err != nil {
		t.Fatal(err)
	}
	other := session.String()
	token := sealer(t)
	seen := f.do(t, "POST", "/v1/users", `{"email":"a@b.c"}`, nil).header.Get(rpc.HeaderToken)
	for _, tt := range []struct {
		name, method, path, body string
		authorization            []string
		status                   int
		challenge                string
	}{
		{"open", "POST", "/v1/users", `{"email":"a@b.c"}`, nil, 200, ""},
		{"open, bad token", "POST", "/v1/users", `{"email":"a@b.c"}`, []string{"Bearer x"}, 401, `Bearer error="invalid_token"`},
		{"nobody", "GET", "/v1/users/" + johnID.String(), "", nil, 401, "Bearer"},
		{"nobody, invalid", "PATCH", "/v1/users/" + johnID.String(), `{"phoneNumbers":["12"]}`, nil, 401, "Bearer"},
		{"owner", "GET", "/v1/users/" + johnID.String(), "", []string{"Bearer " + john}, 200, ""},
		{"owner, twice", "GET", "/v1/users/" + johnID.String(), "", []string{"Bearer " + john, "Bearer " + john}, 401, `Bearer error="invalid_token"`},
		{"stranger", "GET", "/v1/users/" + other, "", []string{"Bearer " + john}, 403, ""},
		{"owner, invalid", "PATCH", "/v1/users/" + johnID.String(), `{"phoneNumbers":["12"]}`, []string{"Bearer " + john}, 400, ""},
		{"stranger, invalid", "PATCH", "/v1/users/" + other, `{"phoneNumbers":["12"]}`, []string{"Bearer " + john}, 403, ""},
		{"stranger who is named in the body", "PATCH", "/v1/users/" + other, `{"id":"` + johnID.String() + `","firstName":"x"}`, []string{"Bearer " + john}, 403, ""},
		{"stranger who is named in the query", "GET", "/v1/users/" + other + "?id=" + johnID.String(), "", []string{"Bearer " + john}, 400, ""},
		{"user, for admins", "GET", "/v1/users", "", []string{"Bearer " + john}, 403, ""},
		{"not ASCII", "POST", "/v1/users", `{"email":"a@b.c"}`, []string{"Bearer \xc3\xa9"}, 400, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{rpc.HeaderToken: {seen}}
			if tt.authorization != nil {
				header["Authorization"] = tt.authorization
			}
			got := f.do(t, tt.method, tt.path, tt.body, header)
			if got.status != tt.status || got.header.Get("Www-Authenticate") != tt.challenge {
				t.Errorf("got %d %q: %s", got.status, got.header.Get("Www-Authenticate"), got.body)
			}
			if got.status != 401 && got.status != 403 {
				return
			}
			if want := map[int]fault.Kind{401: fault.Unauthenticated, 403: fault.Forbidden}[tt.status]; got.problem(t).Reason != want {
				t.Errorf("got %s", got.body)
			}
			// What the caller has seen stays seen.
			back, err := token.Open(got.header.Get(rpc.HeaderToken))
			if err != nil || back.Vector("user", johnID) == nil {
				t.Errorf("the causal token came back as %v, %v", back, err)
			}
		})
	}
}
