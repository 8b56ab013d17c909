package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"antipode.example/regions/caller"
)

// regions serve fixed users.
func serve(t *testing.T, name string, users map[string]profile) Region {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/sessions" {
			_ = json.NewEncoder(w).Encode(map[string]any{"accessToken": "a", "refreshToken": "r", "accessTokenExpireTime": time.Now().Add(time.Hour).UTC()})
			return
		}
		if r.Header.Get(caller.HeaderAuthorization) != "Bearer a" {
			w.Header().Set(caller.HeaderRequestID, "r1")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		u, ok := users[strings.TrimPrefix(r.URL.Path, "/v1/users/")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(u)
	}))
	t.Cleanup(s.Close)
	return Region{Name: name, Address: strings.TrimPrefix(s.URL, "http://")}
}

// admin is signed in at one of the regions.
func admin(t *testing.T, r Region) *caller.Session {
	t.Helper()
	as, err := caller.SignIn(t.Context(), []Region{r}, "root@example.com", "password")
	if err != nil {
		t.Fatal(err)
	}
	return as
}

func update(outcome Outcome, value string, sent int) Write {
	return Write{Kind: Update, User: "u", Field: "lastName", Value: value, Outcome: outcome, Sent: 0, Done: 0, Seq: sent}
}

func TestCheck(t *testing.T) {
	create := Write{Kind: Create, User: "u", Value: "a", Outcome: Acked}
	is := func(first, last string) *profile { return &profile{ID: "u", FirstName: first, LastName: last} }
	for name, test := range map[string]struct {
		updates []Write
		a, b    *profile
		// what is found, over both regions
		lost, ghosts, differ, late int
	}{
		"all is there":                      {[]Write{update(Acked, "1", 1), update(Acked, "2", 2)}, is("a", "2"), is("a", "2"), 0, 0, 0, 0},
		"a user is missing":                 {nil, is("a", ""), nil, 1, 0, 1, 0},
		"an update is missing in a region":  {[]Write{update(Acked, "1", 1), update(Acked, "2", 2)}, is("a", "2"), is("a", "1"), 1, 0, 1, 0},
		"an update is missing everywhere":   {[]Write{update(Acked, "1", 1)}, is("a", ""), is("a", ""), 2, 0, 0, 0},
		"a value was lost at creation":      {nil, is("", ""), is("", ""), 2, 0, 0, 0},
		"an unknown write came through":     {[]Write{update(Acked, "1", 1), update(Unknown, "2", 2)}, is("a", "2"), is("a", "2"), 0, 0, 0, 0},
		"an unknown write did not":          {[]Write{update(Acked, "1", 1), update(Unknown, "2", 2)}, is("a", "1"), is("a", "1"), 0, 0, 0, 0},
		"an unknown write, in one region":   {[]Write{update(Acked, "1", 1), update(Unknown, "2", 2)}, is("a", "1"), is("a", "2"), 0, 0, 1, 0},
		"an unknown write came later":       {[]Write{update(Unknown, "1", 1), update(Acked, "2", 2)}, is("a", "1"), is("a", "1"), 0, 0, 0, 2},
		"a refused write shows":             {[]Write{update(Acked, "1", 1), update(Refused, "2", 2)}, is("a", "2"), is("a", "2"), 0, 2, 0, 0},
		"a refused write is all there is":   {[]Write{update(Refused, "1", 1)}, is("a", ""), is("a", ""), 0, 0, 0, 0},
		"a value that nobody wrote":         {[]Write{update(Refused, "1", 1)}, is("a", "x"), is("a", "x"), 0, 2, 0, 0},
		"a value that came from nowhere at": {[]Write{update(Acked, "1", 1)}, is("a", "x"), is("a", "1"), 1, 0, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			shows := func(p *profile) map[string]profile {
				if p == nil {
					return nil
				}
				return map[string]profile{"u": *p}
			}
			ledger := NewLedger(nil)
			ledger.add(create)
			for _, w := range test.updates {
				w.Sent = ledger.Now()
				ledger.add(w)
			}
			writes, err := ledger.Writes()
			if err != nil {
				t.Fatal(err)
			}
			a, b := serve(t, "a", shows(test.a)), serve(t, "b", shows(test.b))
			got, err := Check(t.Context(), admin(t, a), []Region{a, b}, writes)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Lost) != test.lost || len(got.Ghosts) != test.ghosts || len(got.Differ) != test.differ || got.Late != test.late {
				t.Errorf("lost %d, ghosts %d, differ %d, late %d, want %d, %d, %d, %d: %v", len(got.Lost), len(got.Ghosts), len(got.Differ), got.Late,
					test.lost, test.ghosts, test.differ, test.late, got.Err())
			}
			if clean := test.lost+test.ghosts+test.differ == 0; clean != (got.Err() == nil) {
				t.Errorf("the verdict is %v", got.Err())
			}
		})
	}
}

// A caller who may do everything and is refused has found something, whatever became of the data.
func TestADenialIsNoRefusalLikeOthers(t *testing.T) {
	r := serve(t, "a", map[string]profile{"u": {ID: "u", FirstName: "a"}})
	denied := caller.Answer{Region: "a", Status: http.StatusForbidden, Header: http.Header{"X-Request-Id": {"r7"}}, Body: []byte(`{"reason":"forbidden"}`)}
	ledger := NewLedger(nil)
	l := &Load{ledger: ledger}
	ledger.add(Write{Kind: Create, User: "u", Value: "a", Outcome: Acked})
	ledger.add(l.done(Write{Region: "a", Kind: Update, User: "u", Field: "lastName", Value: "1"}, denied, nil))
	writes, err := ledger.Writes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Check(t.Context(), admin(t, r), []Region{r}, writes)
	if err != nil || len(got.Denied) != 1 || got.Err() == nil || !strings.Contains(got.Err().Error(), "a answers forbidden to write 2, update, sent at 0.000 s, request r7") {
		t.Errorf("%+v, %v, %v", got, got.Err(), err)
	}

	// Its session is not the one that the region knows.
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"accessToken": "b", "refreshToken": "r", "accessTokenExpireTime": time.Now().Add(time.Hour).UTC()})
	}))
	defer stranger.Close()
	l.cfg.As = admin(t, Region{Name: "elsewhere", Address: strings.TrimPrefix(stranger.URL, "http://")})
	l.read(t.Context(), r, "firstName", session{user: "u", n: 1})
	if all := l.Denied(); len(all) != 1 || all[0].Region != "a" || !strings.Contains(all[0].Answer, "request r1") {
		t.Errorf("denied reads are %+v", all)
	}
}

// What a client may conclude from an answer.
func TestOutcome(t *testing.T) {
	problem := func(status int, reason string) caller.Answer {
		return caller.Answer{Status: status, Body: []byte(`{"reason":"` + reason + `"}`)}
	}
	for name, test := range map[string]struct {
		a    caller.Answer
		err  error
		want Outcome
	}{
		"acknowledged":              {caller.Answer{Status: 200}, nil, Acked},
		"refused":                   {problem(503, "unavailable"), nil, Refused},
		"unknown":                   {problem(503, "unknown_outcome"), nil, Unknown},
		"from a balancer":           {problem(502, "unavailable"), nil, Unknown},
		"from who knows":            {caller.Answer{Status: 503, Body: []byte("oops")}, nil, Unknown},
		"a connection that broke":   {caller.Answer{}, context.DeadlineExceeded, Unknown},
		"a connection never made":   {caller.Answer{}, caller.ErrNotSent, Refused},
		"a precondition not met":    {problem(412, "etag"), nil, Refused},
		"a bad gateway with reason": {problem(504, "x"), nil, Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			if got, why := outcome(test.a, test.err); got != test.want {
				t.Errorf("%s (%s), want %s", got, why, test.want)
			}
		})
	}
}

func TestLedgerCanBeReadAgain(t *testing.T) {
	var file bytes.Buffer
	l := NewLedger(&file)
	l.add(Write{Region: "r", Kind: Create, User: "u", Value: "a", Outcome: Acked, Sent: 5})
	l.add(Write{Region: "r", Kind: Update, Outcome: Unknown})
	again, err := ReadLedger(&file)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := l.Writes()
	got, _ := again.Writes()
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%+v, want %+v", got, want)
	}
	if n := again.Counts("r"); n[Acked] != 1 || n[Unknown] != 1 {
		t.Errorf("counts are %v", n)
	}
	if _, err := ReadLedger(strings.NewReader("{\"seq\":1}\n{")); err == nil || !strings.Contains(err.Error(), "entry 2") {
		t.Errorf("half an entry: %v", err)
	}
}
