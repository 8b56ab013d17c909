package service

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service/servicetest"
)

// refusal is why a caller with a token is refused at an instance; empty when he is not.
func refusal(t *testing.T, r *servicetest.Instance, token string, user id.ID) fault.Kind {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), servicetest.Bearer(token)...)
	if token == "" {
		ctx = t.Context()
	}
	return kindOf(getUser(ctx, r.Conn, user))
}

func getUser(ctx context.Context, conn grpc.ClientConnInterface, user id.ID) error {
	_, err := userv1.NewUserServiceClient(conn).GetUser(ctx, &userv1.GetUserRequest{Id: user.String()})
	return err
}

func kindOf(err error) fault.Kind {
	if f := fault.FromStatus(err); f != nil {
		return f.Kind
	}
	return ""
}

// Two services in two regions: what one of them revokes kills tokens in both, in both regions, over the connections that they have.
func TestServicesObeyEachOther(t *testing.T) {
	t.Parallel()
	users, sessions := newSampled(t, auth.ServiceUser), newSampled(t, auth.ServiceSession)
	all := servicetest.Together(t, users.service(auth.ServiceSession), sessions.service(auth.ServiceUser))
	everywhere := slices.Concat(all...)
	userEast, sessionEast := all[0][0], all[1][0]
	alice := newID(t, 1)
	token := func(g auth.Grant) string {
		t.Helper()
		g.User = alice
		text, _, err := sessionEast.Keys().IssueUser(g)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	want := func(what, token string, kind fault.Kind) {
		t.Helper()
		for _, r := range everywhere {
			if got := refusal(t, r, token, alice); got != kind {
				t.Errorf("%s at %s: refused as %q, want %q", what, r.Address, got, kind)
			}
		}
	}
	eventually := func(what, token string, at []*servicetest.Instance) {
		t.Helper()
		begin := time.Now()
		servicetest.Eventually(t, what+" is refused", func() bool {
			for _, r := range at {
				if refusal(t, r, token, alice) != fault.Unauthenticated {
					return false
				}
			}
			return true
		})
		t.Logf("%s: refused after %s", what, time.Since(begin))
	}
	lost, kept := newID(t, 1), newID(t, 1)
	stolen, own := token(auth.Grant{Session: lost}), token(auth.Grant{Session: kept})
	want("nobody", "", fault.Unauthenticated)
	want("a session", stolen, "")
	for _, r := range everywhere {
		servicetest.Eventually(t, r.Address+" follows", func() bool {
			return strings.Contains(r.Get(t, servicetest.Admin, "/metrics").Body, "\nantipode_auth_revocations_known{") && known(t, r) == "1"
		})
	}

	end(t, sessions.in("us-east").Store, alice, lost.String(), time.Now())
	eventually("a session that has ended", stolen, everywhere)
	want("another session", own, "")
	if p := users.in("us-east"); !p.Dead(&auth.Claims{Grant: auth.Grant{Session: lost}}) || p.Dead(&auth.Claims{Grant: auth.Grant{Session: kept}}) {
		t.Error("the parts of the service know something else than its guard")
	}

	// The other way: a write of the user service ends the sessions that do not know of it.
	later := require(t, users.in("eu-west").Store, alice, time.Now())
	eventually("a session from before a write", own, everywhere)
	fresh := token(auth.Grant{Session: newID(t, 1), UserVector: later.Vector})
	want("a session that knows of it", fresh, "")

	checkCalls(t, users.in("us-east"), sessions.in("us-east"), alice)
	for _, name := range []string{"published_revocations", "published_watchers", "published_age_milliseconds", "revocations_age_milliseconds", "keys_bad", "tokens_total"} {
		if text := sessionEast.Get(t, servicetest.Admin, "/metrics").Body; !strings.Contains(text, "\nantipode_auth_"+name) {
			t.Errorf("/metrics does not show antipode_auth_%s", name)
		}
	}

	// A service that is away takes nothing back, and keeps nobody from starting: who has never heard from it goes by signatures.
	sessionEast.Halt(t)
	if got := refusal(t, userEast, stolen, alice); got != fault.Unauthenticated {
		t.Errorf("without the service that revoked it, a token is refused as %q", got)
	}
	userEast.Halt(t)
	userEast.Start(t)
	if k := known(t, userEast); k != "0" {
		t.Errorf("an instance that has never heard knows %s", k)
	}
	if got := refusal(t, userEast, own, alice); got != fault.Unauthenticated {
		t.Errorf("what the instance's own service revoked is refused as %q", got)
	}
	if got := refusal(t, userEast, token(auth.Grant{Session: lost, UserVector: later.Vector}), alice); got != "" {
		t.Errorf("what nobody has told of is refused as %q", got)
	}
	sessionEast.Start(t)
	eventually("a session that had ended before", token(auth.Grant{Session: lost, UserVector: later.Vector}), []*servicetest.Instance{userEast, sessionEast})
}

// known is whether an instance has heard all once.
func known(t *testing.T, r *servicetest.Instance) string {
	t.Helper()
	for _, line := range strings.Split(r.Get(t, servicetest.Admin, "/metrics").Body, "\n") {
		if strings.HasPrefix(line, "antipode_auth_revocations_known{") {
			return line[strings.LastIndexByte(line, ' ')+1:]
		}
	}
	return ""
}

// checkCalls calls from service to service: each by its own name.
func checkCalls(t *testing.T, users, sessions *Parts, user id.ID) {
	t.Helper()
	call := func(from *Parts, to string) fault.Kind {
		conn, err := from.Service(to, "antipode.user.v1.UserService")
		if err != nil {
			t.Fatal(err)
		}
		return kindOf(getUser(rpc.NewCall().Forward(t.Context()), conn, user))
	}
	if got := call(sessions, auth.ServiceUser); got != "" {
		t.Errorf("session, whom GetUser lets in, is refused as %q", got)
	}
	if got := call(users, auth.ServiceSession); got != fault.Forbidden {
		t.Errorf("user, whom GetUser does not let in, is refused as %q", got)
	}
	if _, err := users.Service("asset"); err == nil || !strings.Contains(err.Error(), `"asset"`) || !strings.Contains(err.Error(), `["session"]`) {
		t.Errorf("a service that the configuration does not name: %v", err)
	}
}

// keyFiles are what a process of us-east needs to start, and a test may spoil.
func keyFiles(t *testing.T) Config {
	t.Helper()
	k, err := auth.NewSigningKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Service: auth.ServiceUser, Region: "us-east", KeysDir: t.TempDir()}
	for name, content := range map[string]any{"signing.us-east": auth.SigningKeys{Keys: []auth.SigningKey{k}}, "verify": auth.VerifyKeys{k.Public("us-east")}} {
		b, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(c.KeyFile(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// open is a process that has its telemetry, and keys unless the error says why not.
func open(t *testing.T, c Config, d Definition) (*Process, error) {
	t.Helper()
	p := &Process{cfg: c, definition: d, log: slog.New(slog.DiscardHandler), clock: hlc.System{}}
	component := p.telemeter()
	if err := component.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := component.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return p, p.openAuth(t.Context())
}

// A process without good keys does not start, and says what is wrong.
func TestTokenKeys(t *testing.T) {
	t.Parallel()
	if _, err := open(t, keyFiles(t), Definition{}); err != nil {
		t.Fatal(err)
	}
	other := keyFiles(t)
	for name, x := range map[string]struct {
		spoil func(c *Config) error
		want  string
	}{
		"no signing key":        {func(c *Config) error { return os.Remove(c.KeyFile("signing.us-east")) }, "signing.us-east.json: no such file"},
		"no public keys":        {func(c *Config) error { return os.Remove(c.KeyFile("verify")) }, "verify.json: no such file"},
		"another region's":      {func(c *Config) error { c.Region = "eu-west"; return nil }, "signing.eu-west.json: no such file"},
		"a key that is unknown": {func(c *Config) error { return os.Rename(other.KeyFile("verify"), c.KeyFile("verify")) }, "no region would accept what it signs"},
		"open to others":        {func(c *Config) error { return os.Chmod(c.KeyFile("signing.us-east"), 0o644) }, "others can read it"},
	} {
		c := keyFiles(t)
		if err := x.spoil(&c); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, c, Definition{}); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %s", name, err, x.want)
		}
	}
}

// A service that does not say of each RPC who may call it does not start.
func TestEveryServiceHasAGuard(t *testing.T) {
	t.Parallel()
	p, err := open(t, keyFiles(t), Definition{GRPC: []string{userv1.UserService_ServiceDesc.ServiceName}})
	if err != nil {
		t.Fatal(err)
	}
	if g, err := p.guard(); err != nil || g.Covers("antipode.user.v1.UserService") != nil || g.Covers("antipode.auth.v1.RevocationService") == nil {
		t.Errorf("a service that revokes nothing: %v", err)
	}
	p.publisher = &auth.Publisher{}
	if g, err := p.guard(); err != nil || g.Covers("antipode.auth.v1.RevocationService") != nil {
		t.Errorf("a service that revokes: %v", err)
	}
	p.definition.GRPC = []string{"antipode.replication.v1.SyncService"}
	if _, err := p.guard(); err == nil || !strings.Contains(err.Error(), "antipode.replication.v1.SyncService.Ping") {
		t.Errorf("RPCs of which it is not said who may call them: %v", err)
	}
}

func TestFollowedWithoutRevocations(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}, Definition{Followed: followed}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "Revocations") {
		t.Errorf("got %v", err)
	}
}
