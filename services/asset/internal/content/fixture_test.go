package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
	"antipode.example/platform/gateway"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

func named(what string) string { return id.Keyed([]byte("test"), what).String() }

var (
	ann  = named("ann")
	bob  = named("bob")
	cat  = named("cat")  // ann's asset
	dog  = named("dog")  // bob's asset
	lost = named("lost") // nobody's
)

// service says who may do what, as ContentService does.
type service struct {
	assetv1.UnimplementedContentServiceServer
	max int64

	mu        sync.Mutex
	owners    map[string]string // asset → owner
	contents  map[string]*assetv1.CompleteUploadRequest
	downloads map[string]*assetv1.Content // by what was asked
	failing   error                       // of CompleteUpload
	before    func(context.Context)       // what comes before CompleteUpload; may be nil
	completed int
}

// caller is who the request says it is.
func caller(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.TrimPrefix(strings.Join(md.Get(rpc.HeaderAuthorization), ""), "Bearer ")
}

// owner is the owner of the asset, if the caller is that.
func (s *service) owner(ctx context.Context, asset, owner string) (string, error) {
	who := caller(ctx)
	switch {
	case who == "":
		return "", fault.New(fault.Unauthenticated, "who calls?")
	case owner != "" && owner != who:
		return "", fault.New(fault.Forbidden, "it is not the caller's")
	}
	if _, err := id.Parse(asset); err != nil {
		return "", fault.New(fault.Invalid, "the request is not valid").With("id", "must be a UUID")
	}
	if s.owners[asset] != who {
		return "", fault.New(fault.NotFound, "there is no such asset")
	}
	return who, nil
}

func (s *service) BeginUpload(ctx context.Context, r *assetv1.BeginUploadRequest) (*assetv1.BeginUploadResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, err := s.owner(ctx, r.GetId(), r.GetOwnerId())
	switch {
	case err != nil:
		return nil, err
	case s.contents[r.GetId()] != nil:
		return nil, fault.New(fault.AlreadyExists, "it has content")
	case r.GetSize() > s.max:
		return nil, fault.New(fault.TooLarge, "at most %d bytes", s.max)
	}
	return &assetv1.BeginUploadResponse{MaxBytes: s.max, LeftBytes: 4 * s.max, Id: r.GetId(), OwnerId: owner}, nil
}

func (s *service) CompleteUpload(ctx context.Context, r *assetv1.CompleteUploadRequest) (*assetv1.Asset, error) {
	if s.before != nil {
		s.before(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owner, err := s.owner(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	if s.failing != nil {
		return nil, s.failing
	}
	if has := s.contents[r.GetId()]; has != nil && !bytes.Equal(has.GetSha256(), r.GetSha256()) {
		return nil, fault.New(fault.AlreadyExists, "it has other content")
	}
	s.completed++
	s.contents[r.GetId()] = r
	return &assetv1.Asset{Id: r.GetId(), OwnerId: owner, State: assetv1.Asset_STATE_READY, Size: r.GetSize(), ContentType: r.GetContentType()}, nil
}

func (s *service) download(what string) (*assetv1.Content, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.downloads[what]; c != nil {
		return c, nil
	}
	if has := s.contents[what]; has != nil {
		return &assetv1.Content{Sha256: has.GetSha256(), Size: has.GetSize(), ContentType: has.GetContentType()}, nil
	}
	return nil, fault.New(fault.NotFound, "there is no such content")
}

func (s *service) GetContent(ctx context.Context, r *assetv1.GetContentRequest) (*assetv1.Content, error) {
	if caller(ctx) == "" {
		return nil, fault.New(fault.Unauthenticated, "who calls?")
	}
	return s.download(r.GetId() + r.GetVariant())
}

func (s *service) GetSignedContent(_ context.Context, r *assetv1.GetSignedContentRequest) (*assetv1.Content, error) {
	path, query, _ := strings.Cut(r.GetUrl(), "?")
	if query != "signature=good" {
		return nil, fault.New(fault.Forbidden, "the signed URL is not one that was made here")
	}
	return s.download(path)
}

func (s *service) GetPublicContent(_ context.Context, r *assetv1.GetPublicContentRequest) (*assetv1.Content, error) {
	return s.download(r.GetSha256() + r.GetOwnerId() + r.GetAssetId())
}

func (s *service) GetBlob(ctx context.Context, _ *assetv1.GetBlobRequest) (*emptypb.Empty, error) {
	if caller(ctx) != "asset" {
		return nil, fault.New(fault.Forbidden, "only for the service")
	}
	return &emptypb.Empty{}, nil
}

// fixture is a region: one process with a bucket, behind the real gateway.
type fixture struct {
	service  *service
	handlers *Handlers
	bucket   *blob.Bucket
	puller   *blob.Puller
	dir      string
	addr     string
	client   *http.Client
}

type options struct {
	patience time.Duration
	max      int64
	peers    []blob.Peer
	beside   *fixture // another process of the region
	second   bool     // beside another fixture, whose goroutines must not count for this one's
}

func start(t *testing.T, o options) *fixture {
	t.Helper()
	if o.beside == nil && !o.second {
		leaks := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	}
	if o.max == 0 {
		o.max = 1 << 20
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	f := &fixture{service: &service{
		max: o.max, owners: map[string]string{cat: ann, dog: bob}, contents: map[string]*assetv1.CompleteUploadRequest{}, downloads: map[string]*assetv1.Content{},
	}}
	spool := "spool"
	if o.beside != nil {
		f.service, f.dir, spool = o.beside.service, o.beside.dir, "spool2"
	} else {
		f.dir = t.TempDir()
	}
	var err error
	f.bucket, err = blob.Open(t.Context(), "file://"+filepath.Join(f.dir, "bucket"), blob.Config{Spool: filepath.Join(f.dir, spool), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	puller, err := blob.NewPuller(blob.PullerConfig{Bucket: f.bucket, Peers: o.peers, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	f.puller = puller
	f.handlers, err = New(Config{Bucket: f.bucket, Puller: puller, Uploads: filepath.Join(f.dir, "uploads"), MaxUpload: o.max, Patience: o.patience, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	stop := f.serve(t, log)
	f.client = &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		stop()
		puller.Close()
		if err := f.bucket.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// serve has the handlers listen behind the gateway.
func (f *fixture) serve(t *testing.T, log *slog.Logger) (stop func()) {
	t.Helper()
	server, err := rpc.NewServer(rpc.Config{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	assetv1.RegisterContentServiceServer(server.Local(), f.service)
	g, err := gateway.New(t.Context(), gateway.Config{
		Log: log, Server: server, Plain: func(p *gateway.Plain) { f.handlers.Register(p) },
		Register: func(context.Context, *runtime.ServeMux, grpc.ClientConnInterface) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := g.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// answered is an answer, read to its end.
type answered struct {
	status int
	header http.Header
	body   []byte
	err    error // of reading the body
}

func (a answered) problem(t *testing.T) (p fault.Problem) {
	t.Helper()
	if a.header.Get("Content-Type") != fault.ProblemType {
		t.Errorf("%d as %q: %.200s", a.status, a.header.Get("Content-Type"), a.body)
		return p
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Errorf("%s: %v", a.body, err)
	}
	return p
}

// headers are "name: value" each.
func headers(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

// do asks as a user.
func (f *fixture) do(t *testing.T, who, method, path string, body io.Reader, lines ...string) answered {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.addr+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = headers(lines...)
	if who != "" {
		r.Header.Set("Authorization", "Bearer "+who)
	}
	answer, err := f.client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	return answered{answer.StatusCode, answer.Header, b, err}
}

// raw sends bytes, and reads what comes until the connection ends.
func (f *fixture) raw(t *testing.T, bytes string, keepOpen bool) string {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, strings.ReplaceAll(bytes, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	if !keepOpen {
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// stored are all blobs.
func (f *fixture) stored(t *testing.T) (all []blob.Ref) {
	t.Helper()
	for s, err := range f.bucket.List(t.Context(), blob.Sum{}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s.Ref)
	}
	return all
}

// files are those under a directory, but locks of spools.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

func refOf(b []byte) blob.Ref { return blob.Ref{SHA256: sha256.Sum256(b), Size: int64(len(b))} }

// offer has content in the bucket, for all ways to get it.
func (f *fixture) offer(t *testing.T, b []byte, contentType, name string) string {
	t.Helper()
	if _, err := f.bucket.Put(t.Context(), bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	return f.describe(refOf(b), contentType, name)
}

func (f *fixture) describe(ref blob.Ref, contentType, name string) string {
	sum := ref.SHA256.String()
	c := &assetv1.Content{Sha256: ref.SHA256[:], Size: ref.Size, ContentType: contentType, FileName: name, AssetId: cat, OwnerId: ann}
	public := &assetv1.Content{Sha256: ref.SHA256[:], Size: ref.Size, ContentType: contentType, FileName: name, AssetId: cat, OwnerId: ann, Public: true}
	f.service.mu.Lock()
	defer f.service.mu.Unlock()
	f.service.downloads[cat], f.service.downloads["/v1/signed/"+ann+"/"+cat+"/original"], f.service.downloads[sum+ann+cat] = c, c, public
	return sum
}

// waitFor polls, for at most 20 s.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("still waiting: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
