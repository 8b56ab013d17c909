package rpc

import (
	"fmt"
	"net/http"
	"testing"

	"antipode.example/platform/causal"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/services/user"
)

// more is a token that covers what another one does, and writes of a replica.
func (f *fixture) more(t *testing.T, token string, u id.ID, of causal.Replica, n uint64) string {
	t.Helper()
	opened := must(f.sealer.Open(token))(t)
	opened.Observe(user.ServiceName, u, causal.Vector{of: n}, 0)
	return f.sealer.Seal(opened)
}

// Who has seen writes of a closed incarnation that no region has is told so, once, and goes on.
func (f *fixture) testLost(t *testing.T) {
	made := f.create(t, `"firstName":"here"`)
	u, path := parse(t, made)
	other, _ := parse(t, f.create(t, ""))
	nobody := must(id.New(f.clock.Now(), 1, zeros{}))(t)
	token := f.more(t, made.token(), u, closed, 4)
	says := func(t *testing.T, a answer, want string) {
		t.Helper()
		if got := a.header.Get(rpc.HeaderLost); got != want {
			t.Errorf("%d %s\n%s is %q, want %q", a.status, a.body, rpc.HeaderLost, got, want)
		}
	}
	names := fmt.Sprintf("user/%s/2.9:1-4", u)
	for name, request := range map[string][]string{
		"read":     {http.MethodGet, path, ""},
		"stale-ok": {http.MethodGet, path, "", rpc.HeaderRead, "stale-ok"},
		"batch":    {http.MethodGet, "/v1/users:batchGet?ids=" + u.String() + "&ids=" + other.String(), ""},
		"list":     {http.MethodGet, "/v1/users", ""},
		"change":   {http.MethodPatch, path, `{"lastName":"changed"}`},
	} {
		t.Run(name, func(t *testing.T) {
			a := f.ok(t, request[0], request[1], request[2], append(request[3:], rpc.HeaderToken, token)...)
			says(t, a, names)
			if a.header.Get(rpc.HeaderStale)+a.header.Get(rpc.HeaderCausal) != "" {
				t.Errorf("headers are %v", a.header)
			}
			again := f.ok(t, http.MethodGet, path, "", rpc.HeaderToken, a.token())
			says(t, again, "")
			if v := must(f.sealer.Open(again.token()))(t).Vector(user.ServiceName, u); v[closed] != 0 || v[f.store.Replica()] == 0 {
				t.Errorf("the token covers %s", v)
			}
		})
	}
	t.Run("a user who is lost", func(t *testing.T) {
		lost := f.more(t, made.token(), nobody, closed, 2)
		a := f.refused(t, "not_found", http.MethodGet, "/v1/users/"+nobody.String(), "", rpc.HeaderToken, lost)
		says(t, a, fmt.Sprintf("user/%s/2.9:1-2", nobody))
		says(t, f.refused(t, "not_found", http.MethodPatch, "/v1/users/"+nobody.String(), `{"lastName":"x"}`, rpc.HeaderToken, lost), fmt.Sprintf("user/%s/2.9:1-2", nobody))
		says(t, f.refused(t, "not_found", http.MethodGet, "/v1/users/"+nobody.String(), "", rpc.HeaderToken, a.token()), "")
	})
	t.Run("what is closed and here is not lost", func(t *testing.T) {
		ev, _ := f.elsewhere(t, other, named("new"))
		f.arrive(t, ev)
		says(t, f.ok(t, http.MethodGet, "/v1/users/"+other.String(), "", rpc.HeaderToken, f.more(t, "", other, causal.NewReplica(2, 1), 1)), "")
	})
	t.Run("what is missing beside it is waited for", func(t *testing.T) {
		a := f.refused(t, "token_ahead", http.MethodGet, path, "", rpc.HeaderToken, f.more(t, token, u, causal.NewReplica(3, 1), 1))
		says(t, a, names)
	})
}

// zeros is no randomness.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
