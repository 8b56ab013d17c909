package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// regions serve fixed users.
func serve(t *testing.T, name string, users map[string]profile) Region {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, ok := users[strings.TrimPrefix(r.URL.Path, "/v1/users/")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(u)
	}))
	t.Cleanup(s.Close)
	return Region{name, strings.TrimPrefix(s.URL, "http://")}
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
			got, err := Check(t.Context(), []Region{serve(t, "a", shows(test.a)), serve(t, "b", shows(test.b))}, writes)
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

// What a client may conclude from an answer.
func TestOutcome(t *testing.T) {
	problem := func(status int, reason string) answer {
		return answer{status: status, body: []byte(`{"reason":"` + reason + `"}`)}
	}
	for name, test := range map[string]struct {
		a    answer
		err  error
		want Outcome
	}{
		"acknowledged":              {answer{status: 200}, nil, Acked},
		"refused":                   {problem(503, "unavailable"), nil, Refused},
		"unknown":                   {problem(503, "unknown_outcome"), nil, Unknown},
		"from a balancer":           {problem(502, "unavailable"), nil, Unknown},
		"from who knows":            {answer{status: 503, body: []byte("oops")}, nil, Unknown},
		"a connection that broke":   {answer{}, context.DeadlineExceeded, Unknown},
		"a connection never made":   {answer{}, errNotSent, Refused},
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
