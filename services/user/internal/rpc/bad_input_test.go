package rpc

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/rpc"
)

// Bad input gets a precise error and changes nothing.
func (f *fixture) testBadInput(t *testing.T) {
	made := f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(john, newEmail()))
	path := "/v1/users/" + made.field("id")
	users := f.count(t)
	forged := forgedToken(t)
	many := `"+12125550001"`
	for i := 2; i <= 21; i++ {
		many += fmt.Sprintf(`,"+121255500%02d"`, i)
	}
	const post, get, patch, del = http.MethodPost, http.MethodGet, http.MethodPatch, http.MethodDelete
	for _, x := range []struct {
		name, method, path, body string
		reason                   string
		status                   int
		fields                   string // the violations, in order
		headers                  []string
	}{
		{"unknown field", post, "/v1/users", `{"email":"a@example.com","emial":"x"}`, "invalid", 400, "user.emial", nil},
		{"unknown field below", post, "/v1/users", `{"email":"a@example.com","address":{"planet":"x"}}`, "invalid", 400, "user.address.planet", nil},
		{"wrong type", post, "/v1/users", `{"email":"a@example.com","firstName":7}`, "invalid", 400, "user.first_name", nil},
		{"wrong type in a list", post, "/v1/users", `{"email":"a@example.com","phoneNumbers":"+12125551234"}`, "invalid", 400, "user.phone_numbers", nil},
		{"not JSON", post, "/v1/users", `{"email":`, "invalid", 400, "", nil},
		{"no body", post, "/v1/users", "", "invalid", 400, "user", nil},
		{"10 MiB", post, "/v1/users", `{"email":"a@example.com","firstName":"` + strings.Repeat("x", 10<<20) + `"}`, "too_large", 413, "", nil},
		{"not a media type of ours", post, "/v1/users", `email=a@example.com`, "invalid", 415, "content-type", []string{"Content-Type", "application/x-www-form-urlencoded"}},

		{"no address", post, "/v1/users", `{"firstName":"John"}`, "invalid", 400, "user.email", nil},
		{"address without a domain", post, "/v1/users", `{"email":"john"}`, "invalid", 400, "user.email", nil},
		{"address with a name", post, "/v1/users", `{"email":"John <john@example.com>"}`, "invalid", 400, "user.email", nil},
		{"address without a full domain", post, "/v1/users", `{"email":"john@localhost"}`, "invalid", 400, "user.email", nil},
		{
			"several at once", post, "/v1/users", `{"email":"a@example.com","firstName":"` + strings.Repeat("x", 101) + `","phoneNumbers":["123"],"address":{"country":"usa"}}`,
			"invalid", 400, "user.address.country user.first_name user.phone_numbers[0]", nil,
		},
		{"number twice", post, "/v1/users", `{"email":"a@example.com","phoneNumbers":["+12125551234","+12125551234"]}`, "invalid", 400, "user.phone_numbers", nil},
		{"21 numbers", post, "/v1/users", `{"email":"a@example.com","phoneNumbers":[` + many + `]}`, "invalid", 400, "user.phone_numbers", nil},

		{"short password", post, "/v1/users", `{"email":"a@example.com","password":"seven77"}`, "invalid", 400, "user.password", nil},
		{"empty password", post, "/v1/users", `{"email":"a@example.com","password":""}`, "invalid", 400, "user.password", nil},
		{"long password", post, "/v1/users", `{"email":"a@example.com","password":"` + strings.Repeat("x", 1025) + `"}`, "invalid", 400, "user.password", nil},
		{"password of a wrong type", post, "/v1/users", `{"email":"a@example.com","password":true}`, "invalid", 400, "user.password", nil},
		{"password that is no UTF-8", post, "/v1/users", `{"email":"a@example.com","password":"` + "\xff\xfe" + `password"}`, "invalid", 400, "user.password", nil},

		{"bad UUID", get, "/v1/users/1234", "", "invalid", 400, "id", nil},
		{"UUID that is none of ours", get, "/v1/users/0199a1b2-0000-4000-8000-000000000000", "", "invalid", 400, "id", nil},
		{"bad UUID in a path to change", patch, "/v1/users/1234", `{"firstName":"X"}`, "invalid", 400, "user.id", nil},
		{"bad UUID to delete", del, "/v1/users/1234", "", "invalid", 400, "id", nil},
		{"bad UUIDs in a batch", get, "/v1/users:batchGet?ids=" + made.field("id") + "&ids=x&ids=y", "", "invalid", 400, "ids[1] ids[2]", nil},
		{"no ids", get, "/v1/users:batchGet", "", "invalid", 400, "ids", nil},
		{"101 ids", get, "/v1/users:batchGet?ids=" + strings.Join(slices.Repeat([]string{made.field("id")}, 101), "&ids="), "", "invalid", 400, "ids", nil},
		{"bad address to look up", get, "/v1/users:lookup?email=john", "", "invalid", 400, "email", nil},
		{"unknown query parameter", get, "/v1/users?pagesize=5", "", "invalid", 400, "pagesize", nil},

		{"unknown path in the mask", patch, path + "?updateMask=firstName,middleName", `{"firstName":"X"}`, "invalid", 400, "update_mask", nil},
		{"path below a leaf", patch, path + "?updateMask=firstName.x", `{"firstName":"X"}`, "invalid", 400, "update_mask", nil},
		{"etag in the query of a change", patch, path + "?user.etag=wrong", `{"firstName":"X"}`, "invalid", 400, "user.etag", nil},
		{"field in the query of a change", patch, path + "?user.firstName=X", `{"firstName":"X"}`, "invalid", 400, "user.firstName", nil},
		{"two ids", get, path + "?id=" + made.field("id"), "", "invalid", 400, "id", nil},
		{"If-Match on a change", patch, path, `{"firstName":"X"}`, "invalid", 400, "If-Match", []string{"If-Match", `"wrong"`}},
		{"If-Match on a deletion", del, path, "", "invalid", 400, "If-Match", []string{"If-Match", `"wrong"`}},
		{"e-mail cleared", patch, path + "?updateMask=email", `{}`, "invalid", 400, "user.email", nil},
		{"e-mail that is none", patch, path, `{"email":"b"}`, "invalid", 400, "user.email", nil},
		{"short password in a change", patch, path, `{"password":"seven77"}`, "invalid", 400, "user.password", nil},
		{"password cleared", patch, path, `{"password":""}`, "invalid", 400, "user.password", nil},
		{"password null", patch, path, `{"password":null}`, "invalid", 400, "user.password", nil},
		{"password named and absent", patch, path + "?updateMask=password", `{}`, "invalid", 400, "user.password", nil},
		{"password in the query", patch, path + "?user.password=long-enough", `{"firstName":"X"}`, "invalid", 400, "user.password", nil},
		{"roles in a change", patch, path, `{"roles":["admin"]}`, "invalid", 400, "update_mask", nil},
		{"a role that is none", post, path + ":setRoles", `{"roles":["root"]}`, "invalid", 400, "roles[0]", nil},
		{"a role twice", post, path + ":setRoles", `{"roles":["admin","admin"]}`, "invalid", 400, "roles", nil},
		{"roles for no user", post, "/v1/users/1234:setRoles", `{"roles":["admin"]}`, "invalid", 400, "id", nil},
		{"id in the mask", patch, path + "?updateMask=id", `{}`, "invalid", 400, "update_mask", nil},
		{"output only", patch, path, `{"createTime":"2026-01-01T00:00:00Z"}`, "invalid", 400, "update_mask", nil},
		{"unknown field in a change", patch, path, `{"fristName":"X"}`, "invalid", 400, "user.fristName", nil},
		{"bad value in a change", patch, path, `{"phoneNumbers":["12"]}`, "invalid", 400, "user.phone_numbers[0]", nil},
		{"wrong etag", patch, path, `{"firstName":"X","etag":"AAAAAAAAAAAAAAAAAAAAAA"}`, "etag_mismatch", 412, "", nil},
		{"wrong etag to delete", del, path + "?etag=AAAAAAAAAAAAAAAAAAAAAA", "", "etag_mismatch", 412, "", nil},
		{"etag too long", del, path + "?etag=" + strings.Repeat("A", 65), "", "invalid", 400, "etag", nil},

		{"forged cursor", get, "/v1/users?pageToken=ATEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "", "invalid", 400, "page_token", nil},
		{"negative page size", get, "/v1/users?pageSize=-1", "", "invalid", 400, "page_size", nil},
		{"page size that is no number", get, "/v1/users?pageSize=many", "", "invalid", 400, "page_size", nil},

		{"forged token", get, path, "", "invalid", 400, "antipode-token", []string{rpc.HeaderToken, forged}},
		{"forged token on a write", patch, path, `{"firstName":"X"}`, "invalid", 400, "antipode-token", []string{rpc.HeaderToken, forged}},
		{"token that is none", get, path, "", "invalid", 400, "antipode-token", []string{rpc.HeaderToken, "x"}},
		{"unknown durability", patch, path, `{"firstName":"X"}`, "invalid", 400, "antipode-durability", []string{rpc.HeaderDurability, "forever"}},
		{"unknown read mode", get, path, "", "invalid", 400, "antipode-read", []string{rpc.HeaderRead, "fast"}},
		{"idempotency key too long", post, "/v1/users", `{"email":"a@example.com"}`, "invalid", 400, "idempotency-key", []string{rpc.HeaderIdempotencyKey, strings.Repeat("k", 129)}},

		{"no such path", get, "/v2/users", "", "not_found", 404, "", nil},
		{"no such method", http.MethodPut, path, `{}`, "invalid", 405, "", nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			a := f.refused(t, x.reason, x.method, x.path, x.body, x.headers...)
			if a.status != x.status || !slices.Equal(slices.Compact(a.violations()), strings.Fields(x.fields)) {
				t.Errorf("got %d, fields %v: %.500s\nwant %d, fields %s", a.status, a.violations(), a.body, x.status, x.fields)
			}
		})
	}
	if a := f.ok(t, http.MethodGet, path, ""); a.body != made.body {
		t.Errorf("bad input changed %s to %s", made.body, a.body)
	}
	if now := f.count(t); now != users {
		t.Errorf("bad input made %d users", now-users)
	}
	f.refused(t, "not_found", http.MethodGet, "/v1/users:lookup?email=a@example.com", "") // no claim was left either
	t.Run("gRPC", func(t *testing.T) { f.testBadGRPC(t, made.field("id"), forged) })
}

func (f *fixture) testBadGRPC(t *testing.T, u, forged string) {
	t.Helper()
	ctx := t.Context()
	user := func(change func(*userv1.User)) *userv1.User {
		m := &userv1.User{Email: "a@example.com"}
		change(m)
		return m
	}
	for _, x := range []struct {
		name   string
		call   func() error
		code   codes.Code
		reason string
		field  string
	}{
		{"no user", func() error { _, err := f.client.CreateUser(ctx, &userv1.CreateUserRequest{}); return err }, codes.InvalidArgument, "invalid", "user"},
		{"bad address", func() error {
			_, err := f.client.CreateUser(ctx, &userv1.CreateUserRequest{User: user(func(m *userv1.User) { m.Email = "a" })})
			return err
		}, codes.InvalidArgument, "invalid", "user.email"},
		{"bad number", func() error {
			_, err := f.client.CreateUser(ctx, &userv1.CreateUserRequest{User: user(func(m *userv1.User) { m.PhoneNumbers = []string{"+12125551234", "1"} })})
			return err
		}, codes.InvalidArgument, "invalid", "user.phone_numbers[1]"},
		{"bad UUID", func() error { _, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: "1"}); return err }, codes.InvalidArgument, "invalid", "id"},
		{"bad mask", func() error {
			_, err := f.client.UpdateUser(ctx, &userv1.UpdateUserRequest{User: &userv1.User{Id: u}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"nose"}}})
			return err
		}, codes.InvalidArgument, "invalid", "update_mask"},
		{"wrong etag", func() error {
			_, err := f.client.UpdateUser(ctx, &userv1.UpdateUserRequest{User: &userv1.User{Id: u, Etag: "x", FirstName: "X"}})
			return err
		}, codes.Aborted, "etag_mismatch", ""},
		{"forged token", func() error {
			_, err := f.client.GetUser(with(ctx, rpc.HeaderToken, forged), &userv1.GetUserRequest{Id: u})
			return err
		}, codes.InvalidArgument, "invalid", "antipode-token"},
		{"unknown user", func() error { _, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: strangerID}); return err }, codes.NotFound, "not_found", ""},
		{"6 MiB", func() error {
			_, err := f.client.CreateUser(ctx, &userv1.CreateUserRequest{User: user(func(m *userv1.User) { m.FirstName = strings.Repeat("x", 6<<20) })})
			return err
		}, codes.ResourceExhausted, "", ""},
	} {
		t.Run(x.name, func(t *testing.T) {
			st := status.Convert(x.call())
			var reason, field string
			for _, d := range st.Details() {
				switch d := d.(type) {
				case *errdetails.ErrorInfo:
					reason = d.GetReason()
				case *errdetails.BadRequest:
					field = d.GetFieldViolations()[0].GetField()
				}
			}
			if st.Code() != x.code || reason != x.reason || field != x.field {
				t.Errorf("got %v %q %q (%s), want %v %q %q", st.Code(), reason, field, st.Message(), x.code, x.reason, x.field)
			}
		})
	}
}

// count is the number of users that lists show.
func (f *fixture) count(t *testing.T) int {
	t.Helper()
	r := must(f.client.ListUsers(t.Context(), &userv1.ListUsersRequest{PageSize: 500}))(t)
	if r.GetNextPageToken() != "" {
		t.Fatal("more users than a page holds")
	}
	return len(r.GetUsers())
}

// forgedToken is a well-formed causal token under another key.
func forgedToken(t *testing.T) string {
	t.Helper()
	return must(causal.NewSealer(testKey("x")))(t).Seal(&causal.Token{HLC: 1 << 60})
}
