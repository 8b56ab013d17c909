package e2e

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

// TestReadElsewhereAtOnce: what was created in one region is read in another with the token, at once and right.
func TestReadElsewhereAtOnce(t *testing.T) {
	east, west := region(t, "us-east"), region(t, "eu-west")
	conn := dial(t, west)
	var took []time.Duration
	for i := range bounds.Times(200, 10) + 1 {
		c := &client{}
		created := c.create(t, east, "John")
		began := time.Now()
		got, header := c.readGRPC(t, conn, created.GetId())
		if i > 0 { // the first opens the connection
			took = append(took, time.Since(began))
		}
		if !proto.Equal(got, created) {
			t.Fatalf("read %v, created %v", got, created)
		}
		if v := header.Get("antipode-stale"); len(v) > 0 {
			t.Fatalf("marked stale: %v", v)
		}
	}
	link, _ := world.Topology().Link("us-east", "eu-west")
	bounds.Within(t, "read in eu-west what was just created in us-east, p95", bounds.Percentile(took, 95), link.RTT/2+link.RTT+50*time.Millisecond)
}

// readGRPC is get over gRPC.
func (c *client) readGRPC(t *testing.T, conn *grpc.ClientConn, id string) (u *userv1.User, header metadata.MD) {
	t.Helper()
	eventually(t, "read "+id+" over gRPC", func(ctx context.Context) (err error) {
		u, header, err = c.grpcGet(ctx, conn, id)
		if err != nil && reasonOf(err) != "token_ahead" {
			t.Fatalf("read %s over gRPC: %v", id, err)
		}
		return err
	})
	return u, header
}

// TestReadElsewhereWithoutToken: without a token a region answers what it holds: nothing or the whole user, and after a while the user.
func TestReadElsewhereWithoutToken(t *testing.T) {
	east, south := region(t, "us-east"), region(t, "ap-south")
	created := (&client{}).create(t, east, "John")
	var stranger client
	eventually(t, "the user is seen without a token", func(ctx context.Context) error {
		stranger.token = ""
		a, err := stranger.try(ctx, south, http.MethodGet, "/v1/users/"+created.GetId(), "")
		switch {
		case err != nil:
			return err
		case a.Status == http.StatusNotFound:
			if reason := a.problem(t).Reason; reason != "not_found" {
				t.Fatalf("reason %q", reason)
			}
			return errors.New("not there yet")
		case a.Status != http.StatusOK:
			t.Fatalf("status %d: %s", a.Status, a.Body)
		}
		if got := a.user(t); !proto.Equal(got, created) {
			t.Fatalf("read %v, created %v", got, created)
		}
		return nil
	})
}

// TestReadWhatCannotBeHere: while the only region that has a write is cut off, the others refuse to answer less than the token covers, or answer
// it marked if asked to.
func TestReadWhatCannotBeHere(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	c := &client{}
	u := c.create(t, east, "Before")
	c.get(t, west, u.GetId())
	c.get(t, south, u.GetId())

	healWest, healSouth := cut(t, east, west), cut(t, east, south)
	c.patch(t, east, u.GetId(), `{"firstName":"After"}`)
	seen := *c

	for _, at := range []*lab.Region{west, south} {
		c := seen
		a := c.rest(t, http.StatusConflict, at, http.MethodGet, "/v1/users/"+u.GetId(), "")
		if p := a.problem(t); p.Reason != "token_ahead" || p.Detail == "" {
			t.Errorf("%s: %+v", at.Topology.Name, p)
		}

		c = seen
		a = c.rest(t, http.StatusOK, at, http.MethodGet, "/v1/users/"+u.GetId(), "", "antipode-read", "stale-ok")
		if got := a.user(t).GetFirstName(); got != "Before" || a.Header.Get("antipode-stale") != "true" {
			t.Errorf("%s, stale-ok: first name %q, antipode-stale %q", at.Topology.Name, got, a.Header.Get("antipode-stale"))
		}

		var stranger client
		a = stranger.rest(t, http.StatusOK, at, http.MethodGet, "/v1/users/"+u.GetId(), "")
		if got := a.user(t).GetFirstName(); got != "Before" || a.Header.Get("antipode-stale") != "" {
			t.Errorf("%s, no token: first name %q, antipode-stale %q", at.Topology.Name, got, a.Header.Get("antipode-stale"))
		}
	}

	overGRPC := seen
	_, _, err := overGRPC.grpcGet(t.Context(), dial(t, west), u.GetId())
	if reason := reasonOf(err); status.Code(err) != codes.FailedPrecondition || reason != "token_ahead" {
		t.Errorf("gRPC: %v with reason %q", err, reason)
	}

	healWest()
	healSouth()
	eventually(t, "the write arrives after healing", func(ctx context.Context) error {
		for _, at := range []*lab.Region{west, south} {
			c := seen
			a, err := c.try(ctx, at, http.MethodGet, "/v1/users/"+u.GetId(), "")
			if err != nil {
				return err
			}
			if a.Status != http.StatusOK {
				return errors.New(string(a.Body))
			}
			if got := a.user(t).GetFirstName(); got != "After" {
				t.Fatalf("%s answered %q to a token that covers more", at.Topology.Name, got)
			}
		}
		return nil
	})
}

// TestSignUpNeedsAMajority: a region alone takes writes, but gives away no addresses; the others do.
func TestSignUpNeedsAMajority(t *testing.T) {
	east, west, south := region(t, "us-east"), region(t, "eu-west"), region(t, "ap-south")
	c := &client{}
	u := c.create(t, east, "Known")
	cut(t, east, west)
	cut(t, east, south)

	alone := &client{}
	a := alone.rest(t, http.StatusServiceUnavailable, east, http.MethodPost, "/v1/users", `{"firstName":"New","email":"alone-`+u.GetId()+`@example.com"}`)
	if p := a.problem(t); p.Reason != "no_quorum" {
		t.Errorf("signing up alone: %+v", p)
	}
	if got := c.patch(t, east, u.GetId(), `{"firstName":"Changed"}`).GetFirstName(); got != "Changed" {
		t.Errorf("changing a user alone: %q", got)
	}
	eventually(t, "the majority signs up", func(ctx context.Context) error {
		var other client
		a, err := other.try(ctx, west, http.MethodPost, "/v1/users", `{"firstName":"New","email":"majority-`+u.GetId()+`@example.com"}`,
			"idempotency-key", "majority-"+u.GetId())
		if err != nil {
			return err
		}
		if a.Status != http.StatusOK {
			return errors.New(string(a.Body)) // while the members choose another leader
		}
		return nil
	})
}

// reasonOf is the reason in a gRPC error's details.
func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// everywhere reads a user in all regions, after they hold the same, and wants one answer.
func everywhere(t *testing.T, userID string) *userv1.User {
	t.Helper()
	var one *userv1.User
	for _, r := range world.Regions() {
		got := (&client{}).get(t, r, userID)
		if one != nil && !proto.Equal(one, got) {
			t.Fatalf("%s shows %v, another region %v", r.Topology.Name, got, one)
		}
		one = got
	}
	return one
}

// TestSignUpWithOneLinkCut: whichever link is cut, every region still reaches a majority, by way of the third if need be.
func TestSignUpWithOneLinkCut(t *testing.T) {
	names := []string{"us-east", "eu-west", "ap-south"}
	for i := range bounds.Times(3, 2) {
		a, b := region(t, names[i]), region(t, names[(i+1)%3])
		heal := cut(t, a, b)
		for _, name := range names {
			c := &client{}
			if got := c.create(t, region(t, name), "John").GetFirstName(); got != "John" {
				t.Errorf("made %q", got)
			}
		}
		heal()
	}
}
