package server

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/miekg/dns"

	"antipode.example/regions/snapshot"
)

func newState(t *testing.T, cfg Config) *state {
	t.Helper()
	return openState(t.Context(), cfg, testKeys, testLog(t))
}

func revision(s *state) int64 {
	if w := s.world(); w != nil {
		return w.revision
	}
	return 0
}

// TestTake: only what is signed and not older is accepted, and nothing else changes anything.
func TestTake(t *testing.T) {
	cfg := testConfig(t, "http://127.0.0.1:1")
	s := newState(t, cfg)
	strangers := snapshot.Keys{{ID: "k1", Secret: []byte("another secret of 32 bytes ......")}}
	forged, err := strangers.Sign(allActive(99))
	if err != nil {
		t.Fatal(err)
	}
	other := allActive(2)
	other.Cluster = 8
	for _, tc := range []struct {
		what string
		line []byte
		want int64 // revision that is answered from afterwards
		fail bool
	}{
		{"rubbish", []byte("rubbish"), 0, true},
		{"nothing", nil, 0, true},
		{"forged", forged, 0, true},
		{"the first", signed(t, allActive(5)), 5, false},
		{"the same again", signed(t, allActive(5)), 5, false},
		{"an older one", signed(t, allActive(4)), 5, true},
		{"forged, and newer", forged, 5, true},
		{"a newer one", signed(t, snap(7, active("west"))), 7, false},
		{"an older one of another cluster", signed(t, other), 2, false},
	} {
		err := s.take(t.Context(), tc.line)
		if (err != nil) != tc.fail || revision(s) != tc.want {
			t.Errorf("%s: revision %d, want %d; %v", tc.what, revision(s), tc.want, err)
		}
	}
	for i, want := range map[int]uint64{accepted: 4, older: 1, invalid: 4} {
		if got := s.counts[i].Load(); got != want {
			t.Errorf("%d are counted as %s, want %d", got, results[i], want)
		}
	}
}

// TestKeep: the file has what changed last, and is not written when nothing changes.
func TestKeep(t *testing.T) {
	cfg := testConfig(t, "http://127.0.0.1:1")
	s := newState(t, cfg)
	written := func() (content string, at any) {
		b, err := os.ReadFile(cfg.State)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(cfg.State)
		if err != nil {
			t.Fatal(err)
		}
		return string(b), info.Sys()
	}
	take := func(line []byte) {
		t.Helper()
		if err := s.take(t.Context(), line); err != nil {
			t.Fatal(err)
		}
	}
	first := signed(t, allActive(5))
	take(first)
	content, _ := written()
	if content != string(first) {
		t.Errorf("kept %q", content)
	}
	take(signed(t, allActive(6))) // says the same of the regions
	if again, _ := written(); again != content {
		t.Error("the file was written though nothing has changed")
	}
	second := signed(t, snap(7, active("west")))
	take(second)
	if content, _ := written(); content != string(second) {
		t.Errorf("kept %q", content)
	}
	if files, err := filepath.Glob(cfg.State + "*"); err != nil || len(files) != 1 {
		t.Errorf("there are %v, %v", files, err)
	}

	// Nothing can be written: answers go on, and it is made up for.
	if err := os.RemoveAll(filepath.Dir(cfg.State)); err != nil {
		t.Fatal(err)
	}
	take(signed(t, allActive(8)))
	if revision(s) != 8 {
		t.Errorf("answers from %d", revision(s))
	}
	if err := os.MkdirAll(filepath.Dir(cfg.State), 0o700); err != nil {
		t.Fatal(err)
	}
	third := signed(t, allActive(9))
	take(third)
	if content, _ := written(); content != string(third) {
		t.Errorf("kept %q", content)
	}
}

// TestStart: what is kept is answered from only if the region had power all the time; but it is never gone back behind.
func TestStart(t *testing.T) {
	for name, tc := range map[string]struct {
		kept     string // empty: no file
		admitted bool
		want     int64
	}{
		"nothing kept":               {"", true, 0},
		"kept, and admitted":         {"valid", true, 5},
		"kept, and not admitted":     {"valid", false, 0},
		"admitted, and kept rubbish": {"rubbish", true, 0},
		"admitted, and kept a half":  {"half", true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := newController(t)
			cfg := testConfig(t, c.URL)
			content := map[string][]byte{"valid": signed(t, allActive(5)), "rubbish": []byte("rubbish"), "half": signed(t, allActive(5))[:80]}[tc.kept]
			if tc.kept != "" {
				if err := os.WriteFile(cfg.State, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if tc.admitted {
				if err := os.WriteFile(cfg.Admitted, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s, _ := start(t, cfg)
			got, a := ask(t, cfg, "api.antipode.test", dns.TypeA, "10.2.0.0/24")
			if revision(s.state) != tc.want || (got != "") != (tc.want > 0) || (a.Rcode == "SERVFAIL") != (tc.want == 0) {
				t.Errorf("answers from %d with %q: %+v", revision(s.state), got, a)
			}
			if tc.kept == "valid" {
				c.sends(t, allActive(4))
				await(t, "an older snapshot is refused", func() bool { return s.state.counts[older].Load() > 0 })
				if revision(s.state) != tc.want {
					t.Errorf("an older snapshot than the one that was kept is answered from: %d", revision(s.state))
				}
			}
			c.sends(t, allActive(6))
			answersFrom(t, s, 6)
			if got, _ := ask(t, cfg, "api.antipode.test", dns.TypeA, "10.2.0.0/24"); got == "" {
				t.Error("no answer with a snapshot")
			}
		})
	}
}

// TestFailStatic: without controllers the last state stands, also over a restart of the process.
func TestFailStatic(t *testing.T) {
	c := newController(t)
	c.sends(t, snap(5, active("west")))
	cfg := testConfig(t, c.URL)
	s, stop := start(t, cfg)
	answersFrom(t, s, 5)
	c.CloseClientConnections()
	c.Close()
	if got, _ := ask(t, cfg, "api.antipode.test", dns.TypeA, ""); got != west {
		t.Errorf("without a controller the answer is %q", got)
	}
	stop()
	if err := os.WriteFile(cfg.Admitted, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, cfg)
	if got, _ := ask(t, cfg, "api.antipode.test", dns.TypeA, ""); got != west {
		t.Errorf("after a restart without a controller the answer is %q", got)
	}
}
