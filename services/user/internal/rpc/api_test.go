package rpc

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/claims/etcdtest"
	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/rpc"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const john = `{"firstName":"John","lastName":"Smith","email":%q,
	"address":{"streetAddress":"21 2nd Street","city":"New York","state":"NY","postalCode":"10021","country":"US"},
	"phoneNumbers":["+12125551234","+16465554567"]}`

// The API on real engines, over REST and gRPC.
func TestAPI(t *testing.T) {
	t.Parallel()
	f := start(t, etcdtest.New(t, 1))
	t.Run("shape", f.testShape)
	t.Run("gRPC", f.testGRPC)
	t.Run("idempotency", f.testIdempotency)
	t.Run("update", f.testUpdate)
	t.Run("etag", f.testEtag)
	t.Run("batch", f.testBatch)
	t.Run("list", f.testList)
	t.Run("lookup", f.testLookup)
	t.Run("delete", f.testDelete)
	t.Run("durability", f.testDurability)
	t.Run("bad input", f.testBadInput)
	t.Run("race for an address", f.testRace)
	t.Run("reservation that ends on the way", f.testReservationEnds)
	t.Run("address lost on the way", f.testAddressLost)
	t.Run("interrupted sign-up", f.testInterrupted)
	t.Run("change of address", f.testChangeOfAddress)
	t.Run("interrupted change of address", f.testInterruptedChange)
	t.Run("sign-ups left pending", f.testSweepPending)
	t.Run("addresses that nobody names", f.testSweepClaims)
	t.Run("causal reads", f.testCausalReads)
	t.Run("what is lost", f.testLost)
	t.Run("causal writes", f.testCausalWrites)
	t.Run("replicated events reach the cache", f.testCacheAfterApply)
	t.Run("passwords", f.testPasswords)
}

func (f *fixture) testShape(t *testing.T) {
	made := f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(john, "John@Example.com"))
	got := f.ok(t, http.MethodGet, "/v1/users/"+made.field("id"), "", rpc.HeaderToken, made.token())
	want := `^\{"id":"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}","firstName":"John","lastName":"Smith","displayName":"","email":"John@Example\.com",` +
		`"address":\{"streetAddress":"21 2nd Street","city":"New York","state":"NY","postalCode":"10021","country":"US"\},` +
		`"phoneNumbers":\["\+12125551234","\+16465554567"\],"createTime":"[0-9T:.-]+Z","updateTime":"[0-9T:.-]+Z","etag":"[\w-]{22}","roles":\[\]\}$`
	compact := stripSpace(got.body)
	if !regexp.MustCompile(want).MatchString(compact) {
		t.Errorf("GET answered\n%s\nwant\n%s", compact, want)
	}
	if stripSpace(made.body) != compact {
		t.Errorf("POST answered %s, GET %s", made.body, got.body)
	}
	if made.header.Get(rpc.HeaderDurability) != "local" || got.header.Get(rpc.HeaderDurability) != "" {
		t.Errorf("durability %q for a write, %q for a read", made.header.Get(rpc.HeaderDurability), got.header.Get(rpc.HeaderDurability))
	}
	if created := got.time(t, "createTime"); time.Since(created).Abs() > time.Minute {
		t.Errorf("created at %v", created)
	}
	bare := f.create(t, "")
	if bare.field("address", "city") != "" || !strings.Contains(stripSpace(bare.body), `"address":{"streetAddress":""`) || !strings.Contains(stripSpace(bare.body), `"phoneNumbers":[]`) {
		t.Errorf("a user without an address has another shape: %s", bare.body)
	}
}

// stripSpace takes out the space that protojson puts between tokens; the test's values hold no ", " or ": ".
func stripSpace(s string) string {
	return strings.NewReplacer(`, "`, `,"`, `": `, `":`, `, {`, `,{`).Replace(s)
}

func (f *fixture) testGRPC(t *testing.T) {
	var header metadata.MD
	made, err := f.client.CreateUser(t.Context(), &userv1.CreateUserRequest{User: &userv1.User{FirstName: "Jane", Email: newEmail(), Id: "ignored", Etag: "ignored"}}, grpc.Header(&header))
	if err != nil {
		t.Fatal(err)
	}
	token := header.Get(rpc.HeaderToken)
	if len(token) != 1 || header.Get(rpc.HeaderDurability)[0] != "local" {
		t.Fatalf("metadata %v", header)
	}
	ctx := with(t.Context(), rpc.HeaderToken, token[0])
	got, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: strings.ToUpper(made.GetId())})
	if err != nil || got.GetFirstName() != "Jane" || got.GetEtag() != made.GetEtag() {
		t.Fatalf("GetUser: %v, %v", got, err)
	}
	// Without a mask: the fields that are set.
	got, err = f.client.UpdateUser(ctx, &userv1.UpdateUserRequest{User: &userv1.User{Id: made.GetId(), LastName: "Doe", Address: &userv1.Address{City: "Boston"}}})
	if err != nil || got.GetFirstName() != "Jane" || got.GetLastName() != "Doe" || got.GetAddress().GetCity() != "Boston" {
		t.Fatalf("UpdateUser: %v, %v", got, err)
	}
	got, err = f.client.UpdateUser(ctx, &userv1.UpdateUserRequest{
		User: &userv1.User{Id: made.GetId(), FirstName: "ignored"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"address"}},
	})
	if err != nil || got.GetFirstName() != "Jane" || got.GetAddress().GetCity() != "" {
		t.Fatalf("UpdateUser: %v, %v", got, err)
	}
	if _, err := f.client.DeleteUser(ctx, &userv1.DeleteUserRequest{Id: made.GetId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.client.GetUser(ctx, &userv1.GetUserRequest{Id: made.GetId()}); status.Code(err) != codes.NotFound {
		t.Fatalf("GetUser: %v, want not found", err)
	}
}

func (f *fixture) testUpdate(t *testing.T) {
	made := f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(john, newEmail()))
	path := "/v1/users/" + made.field("id")
	for _, x := range []struct{ name, query, body, field, want string }{
		{"one field", "", `{"displayName":"Johnny"}`, "displayName", "Johnny"},
		{
			"a field below another", "", `{"address":{"city":"Boston"}}`, "address",
			`{"city":"Boston","country":"US","postalCode":"10021","state":"NY","streetAddress":"21 2nd Street"}`,
		},
		{
			"mask in JSON names", "?updateMask=address.postalCode,displayName", `{"address":{"postalCode":"02101","city":"ignored"}}`, "address",
			`{"city":"Boston","country":"US","postalCode":"02101","state":"NY","streetAddress":"21 2nd Street"}`,
		},
		{"named and absent is cleared", "?updateMask=display_name", `{}`, "displayName", ""},
		{"phone numbers", "", `{"phoneNumbers":["+16465554567","+442071234567"]}`, "phoneNumbers", `["+16465554567","+442071234567"]`},
		{"a whole message", "?updateMask=address", `{"address":{"country":"DE"}}`, "address", `{"city":"","country":"DE","postalCode":"","state":"","streetAddress":""}`},
		{"null clears", "", `{"lastName":null}`, "lastName", ""},
		{"everything", "?updateMask=*", `{"firstName":"Johann"}`, "firstName", "Johann"},
	} {
		before := f.ok(t, http.MethodGet, path, "")
		a := f.ok(t, http.MethodPatch, path+x.query, x.body)
		if got := a.field(x.field); got != x.want {
			t.Errorf("%s: %s is %s, want %s", x.name, x.field, got, x.want)
		}
		if a.field("etag") == before.field("etag") || a.field("createTime") != made.field("createTime") || a.time(t, "updateTime").Before(before.time(t, "updateTime")) {
			t.Errorf("%s: %s became %s", x.name, before.body, a.body)
		}
		if got := f.ok(t, http.MethodGet, path, ""); got.body != a.body {
			t.Errorf("%s: PATCH answered %s, GET %s", x.name, a.body, got.body)
		}
	}
	if a := f.ok(t, http.MethodGet, path, ""); a.field("phoneNumbers") != "[]" || a.field("email") != made.field("email") {
		t.Errorf("after replacing everything: %s", a.body)
	}
	f.refused(t, "not_found", http.MethodPatch, "/v1/users/"+strangerID, `{"firstName":"X"}`)
}

// strangerID is a well-formed id that nobody has.
var strangerID = id.Keyed([]byte("nobody"), "x").String()

func (f *fixture) testEtag(t *testing.T) {
	made := f.create(t, `"firstName":"John"`)
	path := "/v1/users/" + made.field("id")
	changed := f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"firstName":"Jack","etag":%q}`, made.field("etag")))
	f.refused(t, "etag_mismatch", http.MethodPatch, path, fmt.Sprintf(`{"firstName":"Jim","etag":%q}`, made.field("etag")))
	f.refused(t, "etag_mismatch", http.MethodDelete, path+"?etag="+made.field("etag"), "")
	if a := f.ok(t, http.MethodGet, path, ""); a.body != changed.body {
		t.Errorf("a refused write changed %s to %s", changed.body, a.body)
	}
	same := f.ok(t, http.MethodPatch, path, fmt.Sprintf(`{"etag":%q}`, changed.field("etag")))
	if same.field("etag") != changed.field("etag") {
		t.Error("an update of nothing changed the etag")
	}
	f.ok(t, http.MethodDelete, path+"?etag="+changed.field("etag"), "")
}

func (f *fixture) testBatch(t *testing.T) {
	a, b := f.create(t, "").field("id"), f.create(t, "").field("id")
	got := must(f.client.BatchGetUsers(t.Context(), &userv1.BatchGetUsersRequest{Ids: []string{b, strangerID, a, b}}))(t)
	var ids []string
	for _, u := range got.GetUsers() {
		ids = append(ids, u.GetId())
	}
	if !slices.Equal(ids, []string{b, a, b}) || !slices.Equal(got.GetMissingIds(), []string{strangerID}) {
		t.Errorf("got %v, missing %v", ids, got.GetMissingIds())
	}
	rest := f.ok(t, http.MethodGet, "/v1/users:batchGet?ids="+a+"&ids="+strangerID, "")
	if !strings.Contains(rest.body, a) || rest.field("missingIds") != `["`+strangerID+`"]` {
		t.Errorf("REST answered %s", rest.body)
	}
}

func (f *fixture) testList(t *testing.T) {
	want := map[string]bool{}
	for range 12 {
		want[f.create(t, "").field("id")] = true
	}
	gone := f.create(t, "").field("id")
	f.ok(t, http.MethodDelete, "/v1/users/"+gone, "")
	seen := map[string]int{}
	shards := map[bool]int{}
	var last, token string
	for page := range 100 {
		r := must(f.client.ListUsers(t.Context(), &userv1.ListUsersRequest{PageSize: 5, PageToken: token}))(t)
		for _, u := range r.GetUsers() {
			seen[u.GetId()]++
			shards[must(id.Parse(u.GetId()))(t).Slot() < id.Slots/2]++
			at := u.GetCreateTime().AsTime().Format("2006-01-02 15:04:05.000000 ") + u.GetId()
			if at <= last {
				t.Errorf("page %d: %s comes after %s", page, at, last)
			}
			last = at
		}
		if token = r.GetNextPageToken(); token == "" {
			break
		}
		if len(r.GetUsers()) != 5 {
			t.Errorf("page %d has %d users and is not the last", page, len(r.GetUsers()))
		}
	}
	for u := range want {
		if seen[u] != 1 {
			t.Errorf("user %s was listed %d times", u, seen[u])
		}
	}
	if seen[gone] != 0 || token != "" {
		t.Errorf("deleted user listed %d times; token after 100 pages %q", seen[gone], token)
	}
	if shards[true] == 0 || shards[false] == 0 {
		t.Errorf("users by shard: %v", shards)
	}
	if a := f.ok(t, http.MethodGet, "/v1/users?pageSize=2", ""); a.field("nextPageToken") == "" {
		t.Errorf("REST answered %s", a.body)
	}
	if r := must(f.client.ListUsers(t.Context(), &userv1.ListUsersRequest{PageSize: 100000}))(t); r.GetNextPageToken() != "" {
		t.Error("a page size above 500 was not taken as 500")
	}
	next := f.ok(t, http.MethodGet, "/v1/users?pageSize=2", "").field("nextPageToken")
	f.clock.forward(25 * time.Hour)
	defer f.clock.forward(-25 * time.Hour)
	a := f.refused(t, "invalid", http.MethodGet, "/v1/users?pageToken="+next, "")
	if !slices.Equal(a.violations(), []string{"page_token"}) || !strings.Contains(a.body, "expired") {
		t.Errorf("an expired page token: %s", a.body)
	}
}

func (f *fixture) testLookup(t *testing.T) {
	email := "J\u00f6rg." + newEmail()
	made := f.ok(t, http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, email))
	for _, same := range []string{email, strings.ToUpper(email), "JO\u0308RG." + email[len("J\u00f6rg."):]} {
		got := must(f.client.LookupUser(t.Context(), &userv1.LookupUserRequest{Email: same}))(t)
		if got.GetId() != made.field("id") {
			t.Errorf("%q belongs to %s, want %s", same, got.GetId(), made.field("id"))
		}
	}
	f.refused(t, "not_found", http.MethodGet, "/v1/users:lookup?email="+newEmail(), "")
	f.ok(t, http.MethodDelete, "/v1/users/"+made.field("id"), "")
	f.refused(t, "not_found", http.MethodGet, "/v1/users:lookup?email="+strings.ReplaceAll(email, "\u00f6", "%C3%B6"), "")
	f.refused(t, "already_exists", http.MethodPost, "/v1/users", fmt.Sprintf(`{"email":%q}`, email)) // stays taken
}

func (f *fixture) testDelete(t *testing.T) {
	made := f.create(t, "")
	path := "/v1/users/" + made.field("id")
	gone := f.ok(t, http.MethodDelete, path, "", rpc.HeaderToken, made.token())
	if gone.body != "{}" || gone.header.Get(rpc.HeaderDurability) != "local" {
		t.Errorf("DELETE answered %s, %v", gone.body, gone.header)
	}
	for _, token := range []string{"", made.token(), gone.token()} {
		f.refused(t, "not_found", http.MethodGet, path, "", rpc.HeaderToken, token)
		f.refused(t, "not_found", http.MethodPatch, path, `{"firstName":"X"}`, rpc.HeaderToken, token)
		f.refused(t, "not_found", http.MethodDelete, path, "", rpc.HeaderToken, token)
	}
	f.refused(t, "not_found", http.MethodDelete, "/v1/users/"+strangerID, "")
}

func (f *fixture) testDurability(t *testing.T) {
	defer f.remote.set(false)
	for up, want := range map[bool]string{true: "remote", false: "local"} {
		f.remote.set(up)
		made := f.create(t, "", rpc.HeaderDurability, "remote")
		changed := f.ok(t, http.MethodPatch, "/v1/users/"+made.field("id"), `{"firstName":"X"}`, rpc.HeaderDurability, "remote")
		for _, a := range []answer{made, changed} {
			if got := a.header.Get(rpc.HeaderDurability); got != want {
				t.Errorf("other regions up: %t; durability %q, want %q", up, got, want)
			}
		}
	}
}
