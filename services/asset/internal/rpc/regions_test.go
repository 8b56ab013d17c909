package rpc

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
)

// pair are two regions. Neither hears of the other's writes before a test lets them meet.
type pair struct{ east, west *fixture }

func startPair(t *testing.T) *pair {
	t.Helper()
	if testing.Short() {
		t.Skip("needs engines")
	}
	clock := &movable{}
	keys := authtest.Keys(t, "us-east", clock)
	return &pair{startRegion(t, 1, "us-east", clock, keys), startRegion(t, 2, "eu-west", clock, keys)}
}

func (p *pair) both() []*fixture { return []*fixture{p.east, p.west} }

// carry brings all that one region has of the users to another.
func carry(ctx context.Context, from, to *fixture, users ...id.ID) error {
	states, err := from.store.States(ctx, users)
	if err != nil {
		return err
	}
	a, err := to.store.Merge(ctx, states)
	if err != nil {
		return err
	}
	for u, w := range a.Users {
		if err := copies.Put(ctx, to.cache, u, w); err != nil {
			return err
		}
	}
	return nil
}

// meet brings all that each region has of the users to the other, and wants both to hold the same then.
func (p *pair) meet(t *testing.T, who ...person) {
	t.Helper()
	users := make([]id.ID, len(who))
	for i, one := range who {
		users[i] = one.id
	}
	for _, way := range [][2]*fixture{{p.east, p.west}, {p.west, p.east}} {
		if err := carry(t.Context(), way[0], way[1], users...); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range users {
		if east, west := p.east.held(t, u), p.west.held(t, u); !proto.Equal(east, west) {
			t.Errorf("the regions hold different copies of user %s after they have met: %v, %v", u, east, west)
		}
	}
}

// held is the vector and the digest of the region's copy of a user; nil when there is none.
func (f *fixture) held(t *testing.T, u id.ID) *replicationv1.UserVector {
	t.Helper()
	slot := must(f.store.Vectors(t.Context(), u.Slot(), id.ID{}, 1000))(t)
	if i := slices.IndexFunc(slot, func(v *replicationv1.UserVector) bool { return bytes.Equal(v.GetUserId(), u[:]) }); i >= 0 {
		return slot[i]
	}
	return nil
}

// conflicts counts what is listed of a user.
func (f *fixture) conflicts(t *testing.T, p person) int {
	t.Helper()
	return len(must(f.store.Conflicts(t.Context(), p.id, store.ConflictCursor{}, 100))(t))
}

// Two regions that cannot see each other, until they meet.
func TestTwoRegions(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	t.Run("one key in both", p.testOneKey)
	t.Run("two requests with one key", p.testReused)
	t.Run("read your writes", p.testRoams)
	t.Run("concurrent changes", p.testChanges)
	t.Run("two contents", p.testTwoContents)
	t.Run("deleted meanwhile", p.testDeleted)
	t.Run("quota", p.testQuota)
	t.Run("one purchase in both", p.testPurchase)
	t.Run("two purchases with one key", p.testTwoPurchases)
	t.Run("bought elsewhere", p.testBoughtElsewhere)
	t.Run("signed elsewhere", p.testSignedElsewhere)
	t.Run("forgotten meanwhile", p.testForgotten)
	t.Run("counted again", p.testRecount)
}

func (p *pair) testOneKey(t *testing.T) {
	who := p.east.person(t)
	east := p.east.create(t, who, private, rpc.HeaderIdempotencyKey, "k")
	p.east.ok(t, patch, east.path(), `{"name":"a dog.jpg"}`, who.headers()...)
	p.east.clock.forward(t, time.Second)
	west := p.west.create(t, who, private, rpc.HeaderIdempotencyKey, "k") // is later by the clocks, and undoes nothing
	if east.id() != west.id() {
		t.Fatalf("one key: %s in us-east, %s in eu-west", east.body, west.body)
	}
	p.west.ok(t, patch, west.path(), `{"description":"asleep"}`, who.headers()...)
	p.meet(t, who)
	for _, f := range p.both() {
		got := f.create(t, who, private, rpc.HeaderIdempotencyKey, "k")
		if got.id() != east.id() || got.field("description") != "asleep" || got.field("name") != "a dog.jpg" {
			t.Errorf("the key once more: %s", got.body)
		}
		if l := f.ok(t, get, assetsPath, "", who.headers()...); len(l.ids("assets")) != 1 {
			t.Errorf("listed: %s", l.body)
		}
		f.charged(t, who, 2, 0) // each has counted it
		if n := f.conflicts(t, who); n != 0 {
			t.Errorf("%d conflicts", n)
		}
	}
}

// Of two different requests with one key one stays, the same everywhere, and a repetition of the other one is told.
func (p *pair) testReused(t *testing.T) {
	who := p.east.person(t)
	p.east.create(t, who, private, rpc.HeaderIdempotencyKey, "k")
	p.west.create(t, who, public, rpc.HeaderIdempotencyKey, "k")
	p.meet(t, who)
	for _, f := range p.both() {
		var told int
		for _, body := range []string{private, public} {
			if f.rest(t, post, assetsPath, body, who.keyed("k")...).field("reason") == "key_reused" {
				told++
			}
		}
		if told != 1 {
			t.Errorf("%d of two requests were told that the key was used before", told)
		}
	}
}

func (p *pair) testRoams(t *testing.T) {
	who := p.east.person(t)
	a := p.east.create(t, who, private)
	p.west.refused(t, "not_found", get, a.path(), "", who.headers()...)
	p.west.refused(t, "token_ahead", get, a.path(), "", who.headers(rpc.HeaderToken, a.token())...)
	p.west.refused(t, "token_ahead", patch, a.path(), `{"name":"x"}`, who.headers(rpc.HeaderToken, a.token())...)
	if _, err := p.west.content.BeginUpload(who.as(t.Context(), rpc.HeaderToken, a.token()), &assetv1.BeginUploadRequest{Id: a.id(), Size: 1}); kind(err) != fault.TokenAhead {
		t.Errorf("begun: %v", err)
	}
	// With the causal token the region waits for it.
	answered := make(chan answer, 1)
	go func() { answered <- p.west.rest(t, get, a.path(), "", who.headers(rpc.HeaderToken, a.token())...) }()
	select {
	case got := <-answered:
		t.Fatalf("did not wait: %d %s", got.status, got.body)
	default:
	}
	if err := carry(t.Context(), p.east, p.west, who.id); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got.status != 200 || got.field("etag") != a.field("etag") {
		t.Errorf("in the other region: %d %s", got.status, got.body)
	}
	p.west.upload(t, who, a.id(), "meow")
	p.meet(t, who)
	for _, f := range p.both() {
		if got := f.ok(t, get, a.path(), "", who.headers()...); got.field("size") != "4" || got.field("originRegion") != "us-east" {
			t.Errorf("with content: %s", got.body)
		}
		f.charged(t, who, 1, 4)
	}
}

// Different fields are all kept; a price keeps its currency.
func (p *pair) testChanges(t *testing.T) {
	who := p.east.person(t)
	a := p.east.create(t, who, forSale)
	p.meet(t, who)
	p.east.ok(t, patch, a.path(), `{"name":"east","price":{"minor":5,"currency":"EUR"}}`, who.headers()...)
	p.east.clock.forward(t, time.Second)
	p.west.ok(t, patch, a.path(), `{"description":"west","price":{"minor":7,"currency":"USD"}}`, who.headers()...)
	p.meet(t, who)
	for _, f := range p.both() {
		if got := f.ok(t, get, a.path(), "", who.headers()...); got.field("name") != "east" || got.field("description") != "west" || got.field("price") != `{"currency":"USD","minor":"7"}` {
			t.Errorf("merged: %s", got.body)
		}
		if n := f.conflicts(t, who); n != 1 {
			t.Errorf("%d conflicts, want that of the price", n)
		}
	}
}

func (p *pair) testTwoContents(t *testing.T) {
	who := p.east.person(t)
	a := p.east.create(t, who, private)
	p.meet(t, who)
	p.east.upload(t, who, a.id(), "meow")
	p.west.upload(t, who, a.id(), "purr!")
	p.meet(t, who)
	east, west := p.east.ok(t, get, a.path(), "", who.headers()...), p.west.ok(t, get, a.path(), "", who.headers()...)
	if east.body != west.body || east.field("state") != "STATE_READY" {
		t.Errorf("us-east has %s, eu-west %s", east.body, west.body)
	}
	stays, other := "meow", "purr!"
	if east.field("size") == "5" {
		stays, other = other, stays
	}
	for _, f := range p.both() {
		f.upload(t, who, a.id(), stays)
		r := contentOf(other)
		r.Id = a.id()
		if _, err := f.content.CompleteUpload(who.as(t.Context()), r); kind(err) != fault.AlreadyExists {
			t.Errorf("the other content: %v", err)
		}
		if n := f.conflicts(t, who); n != 1 {
			t.Errorf("%d conflicts", n)
		}
	}
}

// A deletion wins over everything that others do meanwhile, before or after it by the clocks, and is no conflict with itself.
func (p *pair) testDeleted(t *testing.T) {
	who, buyer := p.east.person(t), p.east.person(t)
	changed, uploaded, published := p.east.create(t, who, private), p.east.create(t, who, private), p.east.photo(t, who, forSale)
	p.meet(t, who)
	for _, a := range []answer{changed, uploaded, published} {
		p.east.ok(t, remove, a.path(), "", who.headers()...)
	}
	p.east.clock.forward(t, time.Second)
	p.west.ok(t, patch, changed.path(), `{"name":"later"}`, who.headers()...)
	p.west.upload(t, who, uploaded.id(), "meow")
	p.west.ok(t, patch, published.path(), `{"visibility":"VISIBILITY_PUBLIC"}`, who.headers()...)
	bought := p.west.buy(t, buyer, published, "k")
	signed := p.west.sign(t, who, published, "").field("path")
	if _, failed := p.west.signed(t, get, signed); failed != "" {
		t.Errorf("signed: %q", failed)
	}
	p.meet(t, who, buyer)
	for _, f := range p.both() {
		for _, a := range []answer{changed, uploaded, published} {
			f.refused(t, "not_found", get, a.path(), "", who.headers()...)
			f.refused(t, "not_found", get, a.of(), "", buyer.headers()...)
			f.refused(t, "not_found", patch, a.path(), `{"name":"again"}`, who.headers()...)
		}
		if _, failed := f.signed(t, get, signed); failed != fault.NotFound {
			t.Errorf("signed: %q", failed)
		}
		if l := f.ledger(t, buyer); !slices.Equal(l.ids("purchases"), []string{bought.id()}) { // what was bought was bought
			t.Errorf("the ledger: %s", l.body)
		}
		f.charged(t, who, 0, 4) // what eu-west charged for an upload that came too late
	}
}

// Each region admits what it knows to be free. Together it is too much, and nothing more is admitted until enough was deleted.
func (p *pair) testQuota(t *testing.T) {
	who := p.east.person(t)
	var all []answer
	for _, f := range p.both() {
		for range 3 {
			all = append(all, f.create(t, who, private))
		}
	}
	p.meet(t, who)
	for _, f := range p.both() {
		f.charged(t, who, 6, 0)
		f.refused(t, "too_large", post, assetsPath, private, who.headers()...)
	}
	for i, a := range all[:3] {
		if f := p.both()[i%2]; i < 2 {
			f.refused(t, "too_large", post, assetsPath, private, who.headers()...)
			f.ok(t, remove, a.path(), "", who.headers()...)
			p.meet(t, who)
		}
	}
	p.east.refused(t, "too_large", post, assetsPath, private, who.headers()...)
	p.east.ok(t, remove, all[5].path(), "", who.headers()...)
	p.east.create(t, who, private)
}

// A buyer who does not know whether it worked asks every region, again and again, while they cannot see each other, and the price changes: it is one purchase.
func (p *pair) testPurchase(t *testing.T) {
	seller, buyer := p.east.person(t), p.east.person(t)
	a := p.east.photo(t, seller, forSale)
	p.meet(t, seller)
	p.east.ok(t, patch, a.path(), `{"price":{"minor":1,"currency":"USD"}}`, seller.headers()...)
	p.east.refused(t, "invalid", post, a.path()+":purchase", order(a, 1999, "EUR"), buyer.keyed("k")...)
	var ids []string
	for range 3 {
		ids = append(ids, p.west.buy(t, buyer, a, "k").id())
	}
	p.east.ok(t, patch, a.path(), `{"price":{"minor":1999,"currency":"EUR"}}`, seller.headers()...)
	for range 3 {
		p.east.clock.forward(t, time.Second)
		ids = append(ids, p.east.buy(t, buyer, a, "k").id())
	}
	p.meet(t, seller, buyer)
	for _, f := range p.both() {
		ids = append(ids, f.buy(t, buyer, a, "k").id())
		l := f.ledger(t, buyer)
		if !slices.Equal(l.ids("purchases"), ids[:1]) || l.field("totals") != `[{"currency":"EUR","minor":"1999","purchases":"1"}]` {
			t.Errorf("the ledger: %s", l.body)
		}
		if n := f.conflicts(t, buyer); n != 0 {
			t.Errorf("%d conflicts", n)
		}
	}
	if len(slices.Compact(ids)) != 1 {
		t.Errorf("one key, and the purchases are %v", ids)
	}
	key := state.Key{Type: asset.LedgerType, ID: must(id.Parse(ids[0]))(t)}
	for _, l := range must(p.west.store.Read(t.Context(), store.Primary, buyer.id, key))(t).Records[key].GetLeaves() {
		if l.GetStamp() != 0 { // a repetition must not be a later write than the first
			t.Errorf("the entry has a leaf of stamp %d", l.GetStamp())
		}
	}
	if east, west := p.east.ledger(t, buyer), p.west.ledger(t, buyer); east.body != west.body {
		t.Errorf("us-east has %s, eu-west %s", east.body, west.body)
	}
}

func (p *pair) testTwoPurchases(t *testing.T) {
	seller, buyer := p.east.person(t), p.east.person(t)
	one, other := p.east.photo(t, seller, forSale), p.east.photo(t, seller, forSale)
	p.meet(t, seller)
	p.east.buy(t, buyer, one, "k")
	p.west.buy(t, buyer, other, "k")
	p.meet(t, buyer)
	for _, f := range p.both() {
		l := f.ledger(t, buyer)
		if l.field("totals") != `[{"currency":"EUR","minor":"1999","purchases":"1"}]` || f.conflicts(t, buyer) == 0 {
			t.Errorf("the ledger: %s, and %d conflicts", l.body, f.conflicts(t, buyer))
		}
		var told int
		for _, a := range []answer{one, other} {
			if f.rest(t, post, a.path()+":purchase", order(a, 1999, "EUR"), buyer.keyed("k")...).field("reason") == "key_reused" {
				told++
			}
		}
		if told != 1 {
			t.Errorf("%d of two purchases were told that the key was used before", told)
		}
	}
}

// A buyer sees what he bought in each region that has heard of it; with the causal token he is never told that there is nothing.
func (p *pair) testBoughtElsewhere(t *testing.T) {
	seller, buyer := p.east.person(t), p.east.person(t)
	a := p.east.photo(t, seller, forSale)
	p.meet(t, seller)
	bought := p.east.buy(t, buyer, a, "k")
	p.west.refused(t, "not_found", get, a.of(), "", buyer.headers()...)
	p.west.refused(t, "token_ahead", get, a.of(), "", buyer.headers(rpc.HeaderToken, bought.token())...)
	p.west.refused(t, "token_ahead", get, a.of(), "", buyer.headers(rpc.HeaderToken, bought.token(), rpc.HeaderRead, "stale-ok")...)
	p.meet(t, buyer)
	p.west.ok(t, get, a.of(), "", buyer.headers(rpc.HeaderToken, bought.token())...)
	// What a denial depends on is part of what was seen.
	denied := p.west.refused(t, "not_found", get, p.east.photoOf(t, p, seller).of(), "", buyer.headers()...)
	seen := must(p.west.sealer.Open(denied.token()))(t)
	if len(seen.Vector("asset", buyer.id)) == 0 || len(seen.Vector("asset", seller.id)) == 0 {
		t.Error("the token of a denial covers nothing")
	}
}

// photoOf is another photo, of which both regions know.
func (f *fixture) photoOf(t *testing.T, p *pair, owner person) answer {
	t.Helper()
	a := f.photo(t, owner, private)
	p.meet(t, owner)
	return a
}

func (p *pair) testSignedElsewhere(t *testing.T) {
	who := p.east.person(t)
	a := p.east.photo(t, who, private)
	signed := p.east.sign(t, who, a, "").field("path")
	if _, failed := p.west.signed(t, get, signed); failed != fault.NotFound {
		t.Errorf("before it has arrived: %q", failed)
	}
	p.meet(t, who)
	if c, failed := p.west.signed(t, get, signed); failed != "" || c.GetAssetId() != a.id() {
		t.Errorf("elsewhere: %v %q", c, failed)
	}
	p.east.ok(t, remove, a.path(), "", who.headers()...)
	p.meet(t, who)
	if _, failed := p.west.signed(t, get, signed); failed != fault.NotFound {
		t.Errorf("deleted elsewhere: %q", failed)
	}
}

func (p *pair) testForgotten(t *testing.T) {
	who, seller, admin := p.east.person(t), p.east.person(t), p.east.admin(t)
	a, offer := p.east.photo(t, who, public), p.east.photo(t, seller, forSale)
	p.meet(t, who, seller)
	if err := p.east.assets.Forget(t.Context(), who.id); err != nil {
		t.Fatal(err)
	}
	p.west.ok(t, patch, a.path(), `{"name":"later"}`, who.headers()...)
	concurrent := p.west.create(t, who, private, rpc.HeaderIdempotencyKey, "k")
	p.west.buy(t, who, offer, "k")
	p.meet(t, who)
	for _, f := range p.both() {
		if err := f.assets.Forget(t.Context(), who.id); err != nil {
			t.Fatal(err)
		}
		for _, one := range []answer{a, concurrent} {
			f.refused(t, "not_found", get, one.of(), "", admin.headers()...)
			f.refused(t, "not_found", get, one.of(), "", seller.headers()...)
		}
		if l := f.ok(t, get, assetsPath+"?ownerId="+who.id.String(), "", admin.headers()...); len(l.ids("assets")) != 0 {
			t.Errorf("listed: %s", l.body)
		}
		u := must(f.store.Read(t.Context(), store.Primary, who.id))(t)
		if !u.Grave() || len(u.Records) != 1 {
			t.Errorf("the region keeps %v", u.Records)
		}
	}
	p.meet(t, who)
}

// What was counted twice, for it was done twice, or for nothing, is corrected once nobody writes any more; a second time there is nothing to correct.
func (p *pair) testRecount(t *testing.T) {
	who := p.east.person(t)
	for _, f := range p.both() {
		f.create(t, who, private, rpc.HeaderIdempotencyKey, "k")
	}
	late, kept := p.east.create(t, who, private), p.east.photo(t, who, private)
	p.meet(t, who)
	p.east.ok(t, remove, late.path(), "", who.headers()...)
	p.west.upload(t, who, late.id(), "too late")
	p.meet(t, who)
	recount := func(f *fixture) bool { return must(f.assets.Recount(t.Context(), who.id))(t) }
	if recount(p.east) {
		t.Error("counted again while somebody writes")
	}
	p.east.charged(t, who, 3, int64(len(kept.id())+len("too late")))
	p.east.clock.forward(t, 11*time.Minute)
	who.token = authtest.Token(t, p.east.keys, auth.User, who.id)
	p.east.raced.set(func() { p.east.create(t, who, private) })
	if recount(p.east) {
		t.Error("corrected by what was true before the last write")
	}
	p.east.charged(t, who, 4, int64(len(kept.id())+len("too late")))
	p.east.clock.forward(t, 11*time.Minute)
	if !recount(p.east) || recount(p.east) {
		t.Error("it was wrong, once")
	}
	p.meet(t, who)
	for _, f := range p.both() {
		f.charged(t, who, 3, int64(len(kept.id())))
	}
	p.east.clock.forward(t, 11*time.Minute)
	if recount(p.west) {
		t.Error("it is right by now")
	}
	if err := p.east.assets.Forget(t.Context(), who.id); err != nil {
		t.Fatal(err)
	}
	p.east.clock.forward(t, 11*time.Minute)
	for _, user := range []id.ID{who.id, p.east.person(t).id} {
		if must(p.east.assets.Recount(t.Context(), user))(t) {
			t.Error("nobody is counted again")
		}
	}
}
