package app

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	authv1 "antipode.example/api/gen/antipode/auth/v1"
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
	"antipode.example/services/asset"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func assetd(more string) servicetest.Service {
	return servicetest.Service{
		Name: asset.ServiceName, GRPC: assetv1.AssetService_ServiceDesc.ServiceName, Keys: []string{"signed-url"}, Main: Main, More: more,
		Roles: []string{"api", "capture", "replicate", "worker"},
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

var ann, bob = id.Keyed([]byte("test"), "ann"), id.Keyed([]byte("test"), "bob")

// neighbour is the user service and the session service, for all regions.
type neighbour struct {
	userv1.UnimplementedCredentialServiceServer
	revocations *auth.Publisher

	mu      sync.Mutex
	deleted id.ID
}

func (n *neighbour) GetCredential(_ context.Context, r *userv1.GetCredentialRequest) (*userv1.Credential, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if r.GetUserId() == n.deleted.String() {
		return nil, fault.New(fault.NotFound, "there is no user %s", r.GetUserId())
	}
	return &userv1.Credential{UserId: r.GetUserId()}, nil
}

// remove deletes a user, in eu-west.
func (n *neighbour) remove(t *testing.T, user id.ID) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deleted = user
	if err := n.revocations.Add(auth.DeletedUser(user, time.Now(), causal.NewReplica(2, 1))); err != nil {
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
	n := &neighbour{revocations: publisher}
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

// photo is a JPEG image of 400 by 300 pixels.
func photo(t *testing.T) string {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, 400, 300))
	for x := range 400 {
		for y := range 300 {
			m.Set(x, y, color.RGBA{uint8(x), uint8(y), 128, 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, nil); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// caller is somebody who calls a region.
type caller struct {
	*servicetest.Instance
	headers []string
}

func (c caller) do(t *testing.T, method, path, body string, more ...string) servicetest.Answer {
	t.Helper()
	return c.Do(t, method, servicetest.Front, path, body, append(more, c.headers...)...)
}

func (c caller) ok(t *testing.T, method, path, body string, more ...string) servicetest.Answer {
	t.Helper()
	a := c.do(t, method, path, body, more...)
	if a.Status != http.StatusOK {
		t.Fatalf("%s %s in %s: %d %s", method, path, c.Name, a.Status, a.Body)
	}
	return a
}

// Whole processes in two regions on engines of their own, beside a user service and a session service.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	address, dir := fmt.Sprint("127.0.0.1:", port), t.TempDir()
	all := servicetest.TwoRegions(t, assetd(fmt.Sprintf(
		"services: [{name: user, addresses: [%[1]q]}, {name: session, addresses: [%[1]q]}]\nbucket: file://%[2]s/{region}/blobs\nspool: %[2]s/{region}/spool\nuploads: %[2]s/{region}/uploads\n", address, dir)))
	east, west := all[0], all[1]
	n := startNeighbour(t, address, east.Keys())
	as := func(r *servicetest.Instance, user id.ID) caller {
		return caller{r, servicetest.Bearer(east.Token(t, auth.User, user))}
	}
	const public = `{"name":"a cat","visibility":"VISIBILITY_PUBLIC","price":{"minor":5,"currency":"EUR"}}`
	made := as(east, ann).ok(t, http.MethodPost, "/v1/assets", public, rpc.HeaderIdempotencyKey, "k")
	path, of := "/v1/assets/"+made.Field("id"), "?ownerId="+ann.String()
	content := photo(t)
	if a := as(east, ann).ok(t, http.MethodPut, path+"/content", content, "Content-Type", "text/html"); a.Field("contentType") != "image/jpeg" || a.Field("state") != "STATE_READY" {
		t.Fatalf("uploaded: %s", a.Body)
	}
	// With durability remote, the other region has the content itself when the answer comes.
	second := as(east, ann).ok(t, http.MethodPost, "/v1/assets", `{"name":"notes"}`).Field("id")
	sure := as(east, ann).ok(t, http.MethodPut, "/v1/assets/"+second+"/content", "some notes", rpc.HeaderDurability, "remote")
	name := sure.Field("sha256")
	if _, err := os.Stat(filepath.Join(dir, "eu-west", "blobs", "sha256", name[:2], name[2:4], name)); err != nil || sure.Header.Get(rpc.HeaderDurability) != "remote" {
		t.Errorf("durability %q, and in the other region: %v", sure.Header.Get(rpc.HeaderDurability), err)
	}
	signed := as(east, ann).ok(t, http.MethodPost, path+":createSignedUrl", `{}`).Field("path")

	var seen servicetest.Answer
	for _, r := range all {
		servicetest.Eventually(t, r.Name+" has the asset, and its thumbnail", func() bool {
			seen = as(r, bob).do(t, http.MethodGet, path+of, "")
			return strings.Contains(seen.Body, `"thumb"`)
		})
		nobody := caller{Instance: r}
		for _, one := range []servicetest.Answer{
			nobody.ok(t, http.MethodGet, seen.Field("publicPath"), ""),
			nobody.ok(t, http.MethodGet, signed, ""),
			as(r, ann).ok(t, http.MethodGet, path+"/content", ""),
			as(r, bob).ok(t, http.MethodGet, path+"/content?owner_id="+ann.String(), ""),
		} {
			if one.Body != content || one.Header.Get("Content-Type") != "image/jpeg" {
				t.Errorf("%s gives %d bytes of %s", r.Name, len(one.Body), one.Header.Get("Content-Type"))
			}
		}
		if a := as(r, bob).ok(t, http.MethodGet, seen.Field("publicPath"), ""); a.Header.Get(rpc.HeaderToken) != "" || !strings.Contains(a.Header.Get("Cache-Control"), "public") {
			t.Errorf("%s tells all who ask a cache what one caller has seen: %v", r.Name, a.Header)
		}
		thumb := as(r, ann).ok(t, http.MethodGet, path+"/content?variant=thumb", "")
		if m, err := jpeg.DecodeConfig(strings.NewReader(thumb.Body)); err != nil || m.Width != 256 {
			t.Errorf("%s gives a thumbnail of %d pixels, %v", r.Name, m.Width, err)
		}
		// A gate for handlers of this process only.
		if err := r.Conn.Invoke(t.Context(), assetv1.ContentService_GetBlob_FullMethodName, &assetv1.GetBlobRequest{}, &assetv1.Content{}); err == nil || fault.FromStatus(err).Kind == fault.Invalid {
			t.Errorf("%s serves ContentService to everybody: %v", r.Name, err)
		}
	}
	checkRemote(t, as(east, ann), filepath.Join(dir, "eu-west", "blobs"))
	order := fmt.Sprintf(`{"ownerId":%q,"price":{"minor":5,"currency":"EUR"}}`, ann)
	for _, r := range all {
		as(r, bob).ok(t, http.MethodPost, path+":purchase", order, rpc.HeaderIdempotencyKey, "k")
	}
	servicetest.Eventually(t, "both regions hold the same", func() bool {
		a, b := east.Command(t, "digest", "--json"), west.Command(t, "digest", "--json")
		return a != "" && a == b
	})
	for _, r := range all {
		if a := as(r, bob).ok(t, http.MethodGet, "/v1/assets:listPurchases", ""); !strings.Contains(strings.ReplaceAll(a.Body, " ", ""), `"totals":[{"currency":"EUR","minor":"5","purchases":"1"}]`) {
			t.Errorf("%s: %s", r.Name, a.Body)
		}
	}

	n.remove(t, ann)
	for _, r := range all {
		servicetest.Eventually(t, r.Name+" refuses who was deleted", func() bool { return as(r, ann).do(t, http.MethodGet, path, "").Status == http.StatusUnauthorized })
		servicetest.Eventually(t, r.Name+" has forgotten who was deleted", func() bool { return as(r, bob).do(t, http.MethodGet, path+of, "").Field("reason") == "not_found" })
		nobody := caller{Instance: r}
		for _, gone := range []string{seen.Field("publicPath"), signed} {
			if a := nobody.do(t, http.MethodGet, gone, ""); a.Field("reason") != "not_found" {
				t.Errorf("%s still gives what was forgotten: %d", r.Name, a.Status)
			}
		}
	}
	if a := east.Get(t, servicetest.Front, "/openapi.json"); a.Status != http.StatusOK || !strings.Contains(a.Body, "/v1/assets:getUsage") {
		t.Errorf("/openapi.json: %d %.200s", a.Status, a.Body)
	}
}

// checkRemote uploads with durability remote: when that is reached, the other region's bucket has the content.
func checkRemote(t *testing.T, owner caller, bucket string) {
	t.Helper()
	a := owner.ok(t, http.MethodPost, "/v1/assets", `{}`)
	up := owner.ok(t, http.MethodPut, "/v1/assets/"+a.Field("id")+"/content", "no image", rpc.HeaderDurability, "remote")
	sum := up.Field("sha256")
	if got := up.Header.Get(rpc.HeaderDurability); got != "remote" {
		t.Errorf("the upload is %q", got)
	}
	if b, err := os.ReadFile(filepath.Join(bucket, "sha256", sum[:2], sum[2:4], sum)); err != nil || string(b) != "no image" {
		t.Errorf("the other region has %q, %v", b, err)
	}
}

// A process without a user service in its configuration does not start, and says why.
func TestWithoutNeighbour(t *testing.T) {
	t.Parallel()
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
