package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/e2e/await"
	"antipode.example/regions/caller"
	"antipode.example/regions/lab"
	"antipode.example/regions/netns"
	"antipode.example/regions/topology"
)

// patience is how long a test waits for what has no bound of its own: minutes, because a machine that builds, tests and runs two labs at
// once is slow, and no outcome depends on it.
const patience = 2 * time.Minute

// client is one user of the API. It sends back the last causal token that it got, to whichever region it speaks, as clients should. Not safe for
// concurrent use.
type client struct {
	token string
	// access is the access token that it sends; empty for the administrator's, so that a test can look at any user. Who is nobody sends none.
	access string
	nobody bool
	// from is a place of the world; where it is none, requests go through the doors. A region counts wrong passwords by where they come from, and doors have one address each.
	from netip.Addr
}

// way is where a region is for this client, and how it gets there.
func (c *client) way(to *lab.Region) (string, *http.Client) {
	h := httpClient()
	if !c.from.IsValid() {
		return door(to), h
	}
	h.Transport = &http.Transport{DisableKeepAlives: true, DialContext: dialFrom(c.from)}
	return front(to), h
}

// dialFrom connects from a place of the world.
func dialFrom(place netip.Addr) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := netns.Dialer{Namespace: world.Network().Namespace(topology.World), From: place}
	return d.DialContext
}

// front is the address of a region as seen from the world.
func front(r *lab.Region) string {
	return netip.AddrPortFrom(r.Topology.Front(), topology.PortFront).String()
}

// admin stays signed in for all tests.
var admin *caller.Session

// authorization is what the client sends in the header of that name. Who signs up, in, or has only a refresh token, has nothing to send.
func (c *client) authorization(ctx context.Context, method, path string) (string, error) {
	switch {
	case c.nobody, method == http.MethodPost && slices.Contains([]string{"/v1/users", "/v1/sessions", "/v1/sessions:refresh"}, path):
		return "", nil
	case c.access != "":
		return "Bearer " + c.access, nil
	}
	return admin.Authorization(ctx)
}

// answer is what came back over REST.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// problem is the part of a problem document that programs read.
type problem struct {
	Reason     string `json:"reason"`
	Detail     string `json:"detail"`
	Violations []struct {
		Field string `json:"field"`
	} `json:"violations"`
}

// door is the address of a region as seen from the host.
func door(r *lab.Region) string { return r.Door().String() }

// region finds a region of the lab.
func region(t *testing.T, name string) *lab.Region {
	t.Helper()
	r, err := world.Region(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// try sends a request without judging the answer; err is one of the connection.
func (c *client) try(ctx context.Context, at *lab.Region, method, path, body string, headers ...string) (answer, error) {
	authorization, err := c.authorization(ctx, method, path)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	address, way := c.way(at)
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if c.token != "" {
		req.Header.Set("antipode-token", c.token)
	}
	if authorization != "" {
		req.Header.Set("authorization", authorization)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := way.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	if token := resp.Header.Get("antipode-token"); token != "" {
		c.token = token
	}
	return answer{resp.StatusCode, resp.Header, b}, nil
}

// rest sends a request and wants the status.
func (c *client) rest(t *testing.T, want int, at *lab.Region, method, path, body string, headers ...string) answer {
	t.Helper()
	a, err := c.try(t.Context(), at, method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s in %s: %v", method, path, at.Topology.Name, err)
	}
	if a.Status != want {
		t.Fatalf("%s %s in %s: status %d, want %d: %s", method, path, at.Topology.Name, a.Status, want, a.Body)
	}
	return a
}

// user reads the body as a user.
func (a answer) user(t *testing.T) *userv1.User {
	t.Helper()
	u, err := a.decode()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (a answer) decode() (*userv1.User, error) {
	u := &userv1.User{}
	if err := a.read(u); err != nil {
		return nil, err
	}
	return u, nil
}

// read decodes an answer of status 200.
func (a answer) read(into proto.Message) error {
	if a.Status != http.StatusOK {
		return fmt.Errorf("status %d: %s", a.Status, a.Body)
	}
	if err := protojson.Unmarshal(a.Body, into); err != nil {
		return fmt.Errorf("read a %s from %s: %w", into.ProtoReflect().Descriptor().Name(), a.Body, err)
	}
	return nil
}

// problem reads the body as a problem document.
func (a answer) problem(t *testing.T) problem {
	t.Helper()
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("content type %q, want a problem document: %s", got, a.Body)
	}
	var p problem
	if err := json.NewDecoder(bytes.NewReader(a.Body)).Decode(&p); err != nil {
		t.Fatalf("read a problem from %s: %v", a.Body, err)
	}
	return p
}

// create makes a user with an address of its own.
func (c *client) create(t *testing.T, at *lab.Region, firstName string) *userv1.User {
	t.Helper()
	return c.write(t, at, http.MethodPost, "/v1/users",
		`{"firstName":"`+firstName+`","lastName":"Smith","email":"`+strings.ToLower(rand.Text())+`@example.com","phoneNumbers":["+12125551234"],`+
			`"address":{"streetAddress":"21 2nd Street","city":"New York","state":"NY","postalCode":"10021","country":"US"}}`,
		"idempotency-key", rand.Text())
}

// patch changes the fields in body.
func (c *client) patch(t *testing.T, at *lab.Region, id, body string) *userv1.User {
	t.Helper()
	return c.write(t, at, http.MethodPatch, "/v1/users/"+id, body)
}

// write sends a write, again when the answer says that it had no effect and may be repeated.
func (c *client) write(t *testing.T, at *lab.Region, method, path, body string, headers ...string) *userv1.User {
	t.Helper()
	var u *userv1.User
	eventually(t, method+" "+path+" in "+at.Topology.Name, func(ctx context.Context) error {
		a, err := c.try(ctx, at, method, path, body, headers...)
		if err != nil {
			t.Fatalf("%s %s in %s: %v", method, path, at.Topology.Name, err)
		}
		if a.Status != http.StatusOK && a.Status != http.StatusServiceUnavailable {
			t.Fatalf("%s %s in %s: status %d: %s", method, path, at.Topology.Name, a.Status, a.Body)
		}
		u, err = a.decode()
		return err
	})
	return u
}

// change is a patch by one of several writers at once.
type change struct {
	c    client
	at   *lab.Region
	body string
}

// concurrently makes all changes at once, each with a client of its own.
func concurrently(t *testing.T, userID string, changes ...change) {
	t.Helper()
	errs := make([]error, len(changes))
	var writers sync.WaitGroup
	for i, w := range changes {
		writers.Go(func() {
			a, err := w.c.try(t.Context(), w.at, http.MethodPatch, "/v1/users/"+userID, w.body)
			if err == nil {
				_, err = a.decode()
			}
			errs[i] = err
		})
	}
	writers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("change a user in several regions at once: %v", err)
	}
}

// get reads a user. A region may say for a while that it does not have yet what the token covers; it must never answer less.
func (c *client) get(t *testing.T, at *lab.Region, id string) *userv1.User {
	t.Helper()
	var u *userv1.User
	eventually(t, "read "+id+" in "+at.Topology.Name, func(ctx context.Context) error {
		a, err := c.try(ctx, at, http.MethodGet, "/v1/users/"+id, "")
		if err != nil {
			return err
		}
		if a.Status != http.StatusOK && a.problem(t).Reason != "token_ahead" {
			t.Fatalf("read in %s: status %d: %s", at.Topology.Name, a.Status, a.Body)
		}
		u, err = a.decode()
		return err
	})
	return u
}

// list reads all users of a region.
func list(t *testing.T, at *lab.Region) (all []*userv1.User) {
	t.Helper()
	for page := ""; ; {
		a := (&client{}).rest(t, http.StatusOK, at, http.MethodGet, "/v1/users?pageSize=1000&pageToken="+url.QueryEscape(page), "")
		l := &userv1.ListUsersResponse{}
		if err := protojson.Unmarshal(a.Body, l); err != nil {
			t.Fatalf("read a list from %s: %v", a.Body, err)
		}
		all = append(all, l.GetUsers()...)
		if page = l.GetNextPageToken(); page == "" {
			return all
		}
	}
}

// grpcGet reads a user over gRPC; header is what came beside the answer.
func (c *client) grpcGet(ctx context.Context, conn *grpc.ClientConn, id string) (u *userv1.User, header metadata.MD, err error) {
	authorization, err := admin.Authorization(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", authorization), 30*time.Second)
	defer cancel()
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "antipode-token", c.token)
	}
	u, err = userv1.NewUserServiceClient(conn).GetUser(ctx, &userv1.GetUserRequest{Id: id}, grpc.Header(&header))
	if v := header.Get("antipode-token"); len(v) == 1 {
		c.token = v[0]
	}
	return u, header, err
}

// dial connects to a region as gRPC clients outside do.
func dial(t *testing.T, at *lab.Region) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(door(at), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("connect to %s: %v", door(at), err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // fails only when closed twice
	return conn
}

// httpClient makes a new connection for each request, so that no test speaks over one that a cut has left hanging.
func httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// eventually waits until ok, for as long as patience lasts.
func eventually(t *testing.T, what string, ok func(context.Context) error) {
	t.Helper()
	await.Until(t, what, patience, ok)
}
