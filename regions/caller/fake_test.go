package caller

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/hlc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	address  = "ann@example.com"
	password = "a good password"
)

// world stands for the services of two regions, which know the same at once.
type world struct {
	t       *testing.T
	keysDir string
	keys    *auth.Keys
	regions []Region

	mu sync.Mutex
	// refuse, unless nil, answers instead of the world.
	refuse func(region string, w http.ResponseWriter, r *http.Request) bool
	user   *userv1.User // nil for none
	life   time.Duration
	// signIns and refreshes are who came, and issued the number of access tokens.
	signIns   []string
	refreshes []use
	issued    int
	setRoles  int
}

// use is one use of a refresh token.
type use struct{ region, token, key string }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, keysDir: t.TempDir(), life: auth.Life}
	k, err := auth.NewSigningKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cfg := auth.KeysConfig{
		Region: "east", SigningFile: filepath.Join(w.keysDir, "signing.east.json"), VerifyFile: filepath.Join(w.keysDir, "verify.json"), Clock: hlc.System{}, Log: slog.New(slog.DiscardHandler),
	}
	for file, content := range map[string]any{cfg.SigningFile: auth.SigningKeys{Keys: []auth.SigningKey{k}}, cfg.VerifyFile: auth.VerifyKeys{k.Public("east")}} {
		text, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if w.keys, err = auth.OpenKeys(cfg); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"east", "west"} {
		s := httptest.NewServer(http.HandlerFunc(func(resp http.ResponseWriter, r *http.Request) { w.serve(name, resp, r) }))
		t.Cleanup(s.Close)
		w.regions = append(w.regions, Region{name, strings.TrimPrefix(s.URL, "http://")})
	}
	return w
}

func fail(w http.ResponseWriter, status int, reason string) {
	w.Header().Set(HeaderRequestID, "r1")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"reason":%q,"detail":"because"}`, reason)
}

func (w *world) serve(region string, resp http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil && w.refuse(region, resp, r) {
		return
	}
	switch body, _ := io.ReadAll(r.Body); {
	case r.URL.Path == "/v1/sessions":
		w.signIn(region, resp, body)
	case r.URL.Path == "/v1/sessions:refresh":
		w.refresh(region, resp, body, r.Header.Get(HeaderKey))
	case r.URL.Path == "/v1/users":
		w.create(resp, body)
	case strings.HasPrefix(r.URL.Path, "/v1/users"):
		w.users(resp, r, body)
	}
}

func (w *world) answer(resp http.ResponseWriter, m proto.Message) {
	text, err := protojson.Marshal(m)
	if err != nil {
		w.t.Error(err)
	}
	resp.Header().Set(HeaderToken, "seen")
	_, _ = resp.Write(text) // a client that has gone is not this test's concern
}

func (w *world) signIn(region string, resp http.ResponseWriter, body []byte) {
	w.signIns = append(w.signIns, region)
	q := &sessionv1.CreateSessionRequest{}
	if err := protojson.Unmarshal(body, q); err != nil || q.GetEmail() != address || q.GetPassword() != password {
		fail(resp, http.StatusUnauthorized, "unauthenticated")
		return
	}
	w.give(resp)
}

func (w *world) refresh(region string, resp http.ResponseWriter, body []byte, key string) {
	q := &sessionv1.RefreshSessionRequest{}
	if err := protojson.Unmarshal(body, q); err != nil {
		w.t.Error(err)
	}
	w.refreshes = append(w.refreshes, use{region, q.GetRefreshToken(), key})
	w.give(resp)
}

// give issues the next tokens.
func (w *world) give(resp http.ResponseWriter) {
	w.issued++
	w.answer(resp, &sessionv1.SignedIn{
		Session: &sessionv1.Session{UserId: "ann"}, AccessToken: fmt.Sprintf("access%d", w.issued), RefreshToken: fmt.Sprintf("refresh%d", w.issued),
		AccessTokenExpireTime: timestamppb.New(time.Now().Add(w.life)),
	})
}

func (w *world) create(resp http.ResponseWriter, body []byte) {
	if w.user != nil {
		fail(resp, http.StatusConflict, "already_exists")
		return
	}
	w.user = &userv1.User{}
	if err := protojson.Unmarshal(body, w.user); err != nil {
		w.t.Error(err)
	}
	w.user.Id = "ann"
	w.answer(resp, w.user)
}

// users is what an operator may do.
func (w *world) users(resp http.ResponseWriter, r *http.Request, body []byte) {
	claims, err := w.keys.Verify(strings.TrimPrefix(r.Header.Get(HeaderAuthorization), "Bearer "))
	if err != nil || claims.Service != "operator" {
		fail(resp, http.StatusUnauthorized, "unauthenticated")
		return
	}
	switch {
	case r.URL.Path == "/v1/users:lookup" && w.user == nil:
		fail(resp, http.StatusNotFound, "not_found")
	case r.URL.Path == "/v1/users:lookup" && r.URL.Query().Get("email") == w.user.GetEmail():
		w.answer(resp, w.user)
	case r.URL.Path == "/v1/users/ann:setRoles":
		q := &userv1.SetUserRolesRequest{}
		if err := protojson.Unmarshal(body, q); err != nil {
			w.t.Error(err)
		}
		w.setRoles++
		w.user.Roles = q.GetRoles()
		w.answer(resp, w.user)
	default:
		w.t.Errorf("asked for %s", r.URL)
	}
}
