package drill

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"antipode.example/regions/caller"
)

// doorman signs everybody in, and takes a number of refresh tokens, in a region.
type doorman struct {
	mu    sync.Mutex
	takes int
	came  []string // the regions that were asked to renew
}

func (d *doorman) serve(t *testing.T, name string) Region {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if r.URL.Path == "/v1/sessions:refresh" {
			d.came = append(d.came, name)
			if d.takes--; d.takes < 0 {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"accessToken": "a", "refreshToken": fmt.Sprint(d.takes), "accessTokenExpireTime": time.Now().Add(time.Hour).UTC()})
	}))
	t.Cleanup(s.Close)
	return Region{Name: name, Address: strings.TrimPrefix(s.URL, "http://")}
}

// Whoever is refused a renewal although nobody has ended the session is a finding.
func TestADeviceThatIsSignedOut(t *testing.T) {
	door := &doorman{takes: 1}
	l := &Load{cfg: Config{Regions: []Region{door.serve(t, "a"), door.serve(t, "b")}}, ledger: NewLedger(nil), anyone: caller.NewClient()}
	if err := l.signIn(t.Context()); err != nil || len(l.devices) != 2 {
		t.Fatalf("%d devices, %v", len(l.devices), err)
	}
	l.stay(t.Context(), l.devices[1])
	out, renewed := l.SignedOut()
	if len(out) != 1 || renewed != 1 || !strings.HasPrefix(out[0], "a user who signed in in b, after 1 renewals, at ") {
		t.Errorf("signed out %q, renewed %d", out, renewed)
	}
	if got := strings.Join(door.came, " "); got != "a b" {
		t.Errorf("asked %s", got)
	}
}
