package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/freeport"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service"
	"antipode.example/platform/service/servicetest"
	"antipode.example/services/session"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func sessiond(more string) servicetest.Service {
	return servicetest.Service{
		Name: session.ServiceName, GRPC: sessionv1.SessionService_ServiceDesc.ServiceName, Keys: []string{"refresh"}, Main: Main, More: more,
		Run: func(ctx context.Context, config string, log *slog.Logger) error {
			cfg, definition, err := define(config)
			if err != nil {
				return err
			}
			p, err := service.New(cfg, definition, log)
			if err != nil {
				return err
			}
			return p.Run(ctx)
		},
	}
}

const signIn = `{"email":"ann@example.com","password":"correct horse"}`

var ann = id.Keyed([]byte("test"), "ann")

// neighbour is a user service with one user, for all regions. It asks its callers who they are.
type neighbour struct {
	userv1.UnimplementedCredentialServiceServer
	revocations *auth.Publisher

	mu      sync.Mutex
	ann     *userv1.Credential
	deleted bool
}

func (n *neighbour) VerifyPassword(_ context.Context, r *userv1.VerifyPasswordRequest) (*userv1.Credential, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.GetEmail() != "ann@example.com" || r.GetPassword() != "correct horse" {
		return nil, fault.New(fault.Unauthenticated, "the e-mail address or the password is wrong")
	}
	return n.ann, nil
}

func (n *neighbour) GetCredential(_ context.Context, r *userv1.GetCredentialRequest) (*userv1.Credential, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.deleted || r.GetUserId() != n.ann.GetUserId() {
		return nil, fault.New(fault.NotFound, "there is no user %s", r.GetUserId())
	}
	return n.ann, nil
}

// write is a write of ann's record that ends her sessions.
func (n *neighbour) write(t *testing.T) {
	t.Helper()
	dot := causal.Dot{Replica: causal.NewReplica(1, 1), N: 2}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ann.Vector, n.ann.Revocations = causal.Vector{dot.Replica: dot.N}.Proto(), nil
	n.ann.Revocations = append(n.ann.Revocations, dot.Proto())
	if err := n.revocations.Add(auth.RequiredWrite(ann, auth.ServiceUser, dot, time.Now())); err != nil {
		t.Fatal(err)
	}
}

// remove deletes ann, in eu-west.
func (n *neighbour) remove(t *testing.T) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deleted = true
	if err := n.revocations.Add(auth.DeletedUser(ann, time.Now(), causal.NewReplica(2, 1))); err != nil {
		t.Fatal(err)
	}
}

// startNeighbour listens at the address, and knows the callers of the regions.
func startNeighbour(t *testing.T, address string, keys *auth.Keys) *neighbour {
	t.Helper()
	publisher, err := auth.NewPublisher(auth.PublisherConfig{Clock: hlc.System{}})
	if err != nil {
		t.Fatal(err)
	}
	publisher.Loaded()
	n := &neighbour{revocations: publisher, ann: &userv1.Credential{
		UserId: ann.String(), Vector: causal.Vector{causal.NewReplica(1, 1): 1}.Proto(), MaxStamp: 1,
	}}
	guard, err := auth.NewGuard(auth.GuardConfig{
		Keys: keys, Services: []string{userv1.CredentialService_ServiceDesc.ServiceName, authv1.RevocationService_ServiceDesc.ServiceName},
	})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Access: guard})
	if err != nil {
		t.Fatal(err)
	}
	userv1.RegisterCredentialServiceServer(server, n)
	authv1.RegisterRevocationServiceServer(server, publisher)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		publisher.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("stop the neighbour: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("the neighbour: %v", err)
		}
	})
	return n
}

// signedIn is what a sign-in or a refresh answers.
type signedIn struct {
	Session      struct{ ID, OriginRegion, State string }
	AccessToken  string
	RefreshToken string
	causal       string
}

func readSignedIn(t *testing.T, a servicetest.Answer) signedIn {
	t.Helper()
	in := signedIn{causal: a.Header.Get(rpc.HeaderToken)}
	if err := json.Unmarshal([]byte(a.Body), &in); err != nil || a.Status != http.StatusOK || in.AccessToken == "" || in.RefreshToken == "" {
		t.Fatalf("signed in: %d %s, %v", a.Status, a.Body, err)
	}
	return in
}

func (in signedIn) refresh(t *testing.T, r *servicetest.Instance, key string) servicetest.Answer {
	t.Helper()
	return r.Do(t, http.MethodPost, servicetest.Front, "/v1/sessions:refresh", fmt.Sprintf(`{"refreshToken":%q}`, in.RefreshToken), rpc.HeaderIdempotencyKey, key, rpc.HeaderToken, in.causal)
}

// get reads the session with its own access token.
func (in signedIn) get(t *testing.T, r *servicetest.Instance) servicetest.Answer {
	t.Helper()
	return r.Do(t, http.MethodGet, servicetest.Front, "/v1/sessions/"+in.Session.ID, "", servicetest.Bearer(in.AccessToken)...)
}

// Whole processes in two regions on engines of their own, beside a user service.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	users := fmt.Sprint("127.0.0.1:", port)
	all := servicetest.TwoRegions(t, sessiond(fmt.Sprintf("services: [{name: user, addresses: [%q]}]\n", users)))
	east, west := all[0], all[1]

	// Both are ready without the user service; nobody can sign in.
	if a := east.Do(t, http.MethodPost, servicetest.Front, "/v1/sessions", signIn); a.Status != http.StatusServiceUnavailable || a.Field("reason") != "unavailable" {
		t.Errorf("sign-in without a user service: %d %s", a.Status, a.Body)
	}
	n := startNeighbour(t, users, east.Keys())
	var answer servicetest.Answer
	servicetest.Eventually(t, "us-east signs users in", func() bool {
		answer = east.Do(t, http.MethodPost, servicetest.Front, "/v1/sessions", signIn)
		return answer.Status == http.StatusOK
	})
	in := readSignedIn(t, answer)
	if in.Session.OriginRegion != "us-east" || in.Session.State != "STATE_ACTIVE" {
		t.Errorf("signed in: %s", answer.Body)
	}
	if a := east.Do(t, http.MethodPost, servicetest.Front, "/v1/sessions", strings.Replace(signIn, "horse", "cow", 1)); a.Field("reason") != "unauthenticated" {
		t.Errorf("a wrong password: %d %s", a.Status, a.Body)
	}

	// The first reading of a log may take longer than one request waits.
	servicetest.Eventually(t, "eu-west has the session", func() bool { answer = in.refresh(t, west, "a"); return answer.Status == http.StatusOK })
	next := readSignedIn(t, answer)
	if again := readSignedIn(t, in.refresh(t, east, "a")); again.RefreshToken != next.RefreshToken {
		t.Error("a repetition in the other region gets another token")
	}
	for _, r := range all {
		if a := next.get(t, r); a.Status != http.StatusOK {
			t.Errorf("%s: a token that eu-west issued: %d %s", r.Name, a.Status, a.Body)
		}
	}

	// What one region ends is refused in the other: without asking, as soon as it has heard.
	out := readSignedIn(t, west.Do(t, http.MethodPost, servicetest.Front, "/v1/sessions", signIn))
	if a := east.Do(t, http.MethodDelete, servicetest.Front, "/v1/sessions/"+next.Session.ID, "", servicetest.Bearer(next.AccessToken)...); a.Status != http.StatusOK {
		t.Fatalf("sign out: %d %s", a.Status, a.Body)
	}
	for _, r := range all {
		servicetest.Eventually(t, r.Name+" refuses a session that has ended", func() bool { return next.get(t, r).Status == http.StatusUnauthorized })
		if a := out.get(t, r); r == west && a.Status != http.StatusOK {
			t.Errorf("%s refuses another one: %d %s", r.Name, a.Status, a.Body)
		}
	}
	n.write(t)
	for _, r := range all {
		servicetest.Eventually(t, r.Name+" refuses who does not know of the password's change", func() bool { return out.get(t, r).Status == http.StatusUnauthorized })
	}
	if a := out.refresh(t, west, "b"); a.Field("reason") != "unauthenticated" {
		t.Errorf("it is refreshed: %d %s", a.Status, a.Body)
	}
	after := readSignedIn(t, east.Do(t, http.MethodPost, servicetest.Front, "/v1/sessions", signIn))
	if a := after.get(t, east); a.Status != http.StatusOK {
		t.Errorf("who knows of it is refused: %d %s", a.Status, a.Body)
	}

	n.remove(t)
	for _, r := range all {
		servicetest.Eventually(t, r.Name+" has forgotten who was deleted", func() bool {
			a := r.Do(t, http.MethodGet, servicetest.Front, "/v1/sessions/"+after.Session.ID+"?userId="+ann.String(), "", servicetest.Bearer(r.AdminToken(t))...)
			return a.Field("reason") == "not_found"
		})
	}

	digest := func(r *servicetest.Instance) string { return r.Command(t, "digest", "--json") }
	servicetest.Eventually(t, "both regions hold the same", func() bool { a, b := digest(east), digest(west); return a != "" && a == b })
	checkFront(t, east)
	for _, want := range []string{`antipode_session_sign_ins_total{`, `antipode_session_refreshes_total{`, `outcome="stolen"`, `outcome="wrong"`} {
		if a := east.Get(t, servicetest.Admin, "/metrics"); !strings.Contains(a.Body, want) {
			t.Errorf("/metrics does not show %s", want)
		}
	}
}

// checkFront looks at what anybody may see.
func checkFront(t *testing.T, r *servicetest.Instance) {
	t.Helper()
	var set struct {
		Keys []struct{ Kid, Kty, Crv, Alg string }
	}
	a := r.Get(t, servicetest.Front, auth.JWKSPath)
	if err := json.Unmarshal([]byte(a.Body), &set); err != nil || a.Status != http.StatusOK || a.Header.Get("Content-Type") != "application/jwk-set+json" {
		t.Errorf("%s: %d %v %s", auth.JWKSPath, a.Status, a.Header, a.Body)
	}
	var regions []string
	for _, k := range set.Keys {
		region, _, _ := strings.Cut(k.Kid, "/")
		regions = append(regions, region)
		if k.Kty != "OKP" || k.Crv != "Ed25519" || k.Alg != "EdDSA" {
			t.Errorf("a key %+v", k)
		}
	}
	slices.Sort(regions)
	if !slices.Equal(regions, []string{"eu-west", "us-east"}) {
		t.Errorf("the keys of %q are published", regions)
	}
	if a := r.Get(t, servicetest.Front, "/openapi.json"); a.Status != http.StatusOK || !strings.Contains(a.Body, "/v1/sessions:refresh") {
		t.Errorf("/openapi.json: %d %.200s", a.Status, a.Body)
	}
	if a := r.Get(t, servicetest.Admin, "/readyz"); a.Status != http.StatusOK {
		t.Errorf("/readyz: %d %s", a.Status, a.Body)
	}
}

// A process without a user service in its configuration does not start, and says why.
func TestWithoutNeighbour(t *testing.T) {
	a := &app{}
	err := a.open(t.Context(), &service.Parts{Service: func(name string, _ ...string) (grpc.ClientConnInterface, error) {
		return nil, fmt.Errorf("the configuration does not name %s", name)
	}})
	if err == nil || !strings.Contains(err.Error(), "user") {
		t.Errorf("open: %v", err)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := Main(t.Context(), []string{"--help"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"serve", "migrate", "sync", "digest", "completion", "--config"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help does not mention %s:\n%s", want, out.String())
		}
	}
	if err := Main(t.Context(), strings.Fields("serve --config /none.yaml"), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("serve without a configuration: %v", err)
	}
}
