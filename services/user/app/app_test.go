package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service"
	"antipode.example/platform/service/servicetest"
	"antipode.example/services/user"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// userd follows a session service at an address where there is none, and serves all the same.
func userd() servicetest.Service {
	return servicetest.Service{
		Name: user.ServiceName, GRPC: userv1.UserService_ServiceDesc.ServiceName, Keys: []string{"claim"}, Main: Main,
		More: "services:\n  - {name: session, addresses: [\"127.0.0.1:1\"]}\n",
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

// ownerToken is a token of the user who was made, issued in a region.
func ownerToken(t *testing.T, r *servicetest.Instance, made servicetest.Answer) string {
	t.Helper()
	u, err := id.Parse(made.Field("id"))
	if err != nil {
		t.Fatal(err)
	}
	return r.Token(t, auth.Owner, u)
}

// Two regions on engines of their own: what is written in one is read in the other.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	all := servicetest.TwoRegions(t, userd())
	east, west := all[0], all[1]

	const signUp = `{"firstName":"John","email":"john@example.com","phoneNumbers":["+12125551234"]}`
	// A global store that has just been made, on a busy disk, may take longer than a sign-up waits for it; with its key it may be repeated.
	var made servicetest.Answer
	servicetest.Eventually(t, "us-east takes sign-ups", func() bool {
		made = east.Do(t, http.MethodPost, "8080", "/v1/users", signUp, rpc.HeaderIdempotencyKey, "first")
		return made.Status < http.StatusInternalServerError
	})
	if made.Status != http.StatusOK {
		t.Fatalf("create: %d %s", made.Status, made.Body)
	}
	token := made.Header.Get(rpc.HeaderToken)
	owner := ownerToken(t, east, made) // accepted in every region
	ctx := metadata.AppendToOutgoingContext(t.Context(), servicetest.Bearer(owner, rpc.HeaderToken, token)...)
	servicetest.Eventually(t, "eu-west has what us-east wrote", func() bool {
		got, err := userv1.NewUserServiceClient(west.Conn).GetUser(ctx, &userv1.GetUserRequest{Id: made.Field("id")})
		return err == nil && got.GetFirstName() == "John" && got.GetEtag() == made.Field("etag")
	})

	// A read with the token waits and is right at once, when the logs are being read: a comparison may have brought the user before that, and the first reading of a log takes longer than the wait of one
	// request.
	path := "/v1/users/" + made.Field("id")
	for i := range 10 {
		from, to := all[i%2], all[(i+1)%2]
		name := fmt.Sprint("John ", i)
		changed := from.Do(t, http.MethodPatch, "8080", path, fmt.Sprintf(`{"firstName":%q}`, name), servicetest.Bearer(owner, rpc.HeaderToken, token)...)
		if changed.Status != http.StatusOK || changed.Header.Get(rpc.HeaderCausal) != "" {
			t.Fatalf("change %d: %d %v %s", i, changed.Status, changed.Header, changed.Body)
		}
		token = changed.Header.Get(rpc.HeaderToken)
		begin := time.Now()
		read := func() servicetest.Answer {
			return to.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(owner, rpc.HeaderToken, token)...)
		}
		if i < len(all) {
			servicetest.Eventually(t, "the log of "+from.Name+" is read in "+to.Name, func() bool { return read().Status == http.StatusOK })
		}
		got := read()
		if got.Body != changed.Body {
			t.Fatalf("read %d in %s: %s, want %s", i, to.Name, got.Body, changed.Body)
		}
		t.Logf("%s → %s: %v", from.Name, to.Name, time.Since(begin))
	}

	remote := west.Do(t, http.MethodPatch, "8080", path, `{"lastName":"Smith"}`, servicetest.Bearer(owner, rpc.HeaderDurability, "remote", rpc.HeaderToken, token)...)
	if remote.Header.Get(rpc.HeaderDurability) != "remote" {
		t.Errorf("durability remote: %v %s", remote.Header, remote.Body)
	}
	if got := east.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(east.AdminToken(t))...); got.Field("lastName") != "Smith" {
		t.Errorf("a remote write is not in the other region: %s", got.Body)
	}
	for token, reason := range map[string]string{"": "unauthenticated", west.Token(t, auth.User, id.Keyed(nil, "another")): "forbidden"} {
		headers := servicetest.Bearer(token)
		if token == "" {
			headers = nil
		}
		if got := west.Do(t, http.MethodGet, "8080", path, "", headers...); got.Field("reason") != reason {
			t.Errorf("read by somebody who may not: %d %s, want %s", got.Status, got.Body, reason)
		}
	}
	taken := west.Do(t, http.MethodPost, "8080", "/v1/users", `{"email":"JOHN@example.com"}`)
	if taken.Field("reason") != "already_exists" {
		t.Errorf("the same address in another region: %s", taken.Body)
	}
	keyed := func(r *servicetest.Instance) servicetest.Answer {
		return r.Do(t, http.MethodPost, "8080", "/v1/users", `{"email":"jane@example.com","firstName":"Jane"}`, rpc.HeaderIdempotencyKey, "k")
	}
	if a, b := keyed(east), keyed(west); a.Status != http.StatusOK || a.Field("id") != b.Field("id") {
		t.Errorf("one key in two regions: %s, %s", a.Body, b.Body)
	}
	gone := east.Do(t, http.MethodDelete, "8080", path, "", servicetest.Bearer(owner)...)
	if got := west.Do(t, http.MethodGet, "8080", path, "", servicetest.Bearer(owner, rpc.HeaderToken, gone.Header.Get(rpc.HeaderToken))...); got.Field("reason") != "not_found" {
		t.Errorf("a deleted user in the other region: %s", got.Body)
	}

	digest := func(r *servicetest.Instance) string { return r.Command(t, "digest", "--json") }
	servicetest.Eventually(t, "both regions hold the same", func() bool { a, b := digest(east), digest(west); return a != "" && a == b })
	if out := west.Command(t, "sync", "--peer", "us-east"); !strings.Contains(out, "us-east: 4096 slots compared, 0 differed, 0 users fetched") &&
		!strings.Contains(out, "0 differed, 0 users fetched") {
		t.Errorf("sync: %s", out)
	}
	if out := west.Command(t, "digest"); !strings.Contains(out, "SLOT") {
		t.Errorf("digest: %s", out)
	}
	if out := east.Command(t, "migrate"); !strings.Contains(out, "2 shards are up to date, and home to replica 1.1") {
		t.Errorf("migrate: %s", out)
	}
	if err := Main(t.Context(), []string{"sync", "--config", east.Config, "--peer", "mars"}, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "eu-west") {
		t.Errorf("sync with a region that is none: %v", err)
	}
	for path, want := range map[string]string{"/metrics": "antipode_cache_hits", "/livez": "ok", "/readyz": `"ready":true`} {
		if a := east.Get(t, "9090", path); a.Status != http.StatusOK || !strings.Contains(a.Body, want) {
			t.Errorf("%s: %d %.200s", path, a.Status, a.Body)
		}
	}
	checkMetrics(t, func() string { return east.Get(t, "9090", "/metrics").Body })
	if a := east.Get(t, "8080", "/openapi.json"); a.Status != http.StatusOK || !strings.Contains(a.Body, "/v1/users/{id}") {
		t.Errorf("/openapi.json: %d %.200s", a.Status, a.Body)
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
	for args, want := range map[string]string{
		"serve":                       "--config FILE",
		"serve --config /none.yaml":   "no such file",
		"dance":                       "unknown command",
		"serve --config x unexpected": "unknown command",
	} {
		if err := Main(t.Context(), strings.Fields(args), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("userd %s: %v, want %s", args, err, want)
		}
	}
}
