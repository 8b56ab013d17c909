package rpc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
)

// order is the body of a purchase.
func order(a answer, minor int, currency string) string {
	return fmt.Sprintf(`{"ownerId":%q,"price":{"minor":%d,"currency":%q}}`, a.field("ownerId"), minor, currency)
}

// orderFrom names a seller.
func orderFrom(seller string) string {
	return order(answer{body: fmt.Sprintf(`{"ownerId":%q}`, seller)}, 1999, "EUR")
}

// buy buys an asset for 19.99 EUR.
func (f *fixture) buy(t *testing.T, p person, a answer, key string, headers ...string) answer {
	t.Helper()
	return f.ok(t, post, a.path()+":purchase", order(a, 1999, "EUR"), p.keyed(key, headers...)...)
}

// ledger is a person's.
func (f *fixture) ledger(t *testing.T, p person) answer {
	t.Helper()
	return f.ok(t, get, "/v1/assets:listPurchases", "", p.headers()...)
}

func (f *fixture) testPurchase(t *testing.T) {
	seller, buyer := f.person(t), f.person(t)
	a := f.photo(t, seller, forSale)
	bought := f.buy(t, buyer, a, "k")
	for name, want := range map[string]string{
		"buyerId": buyer.id.String(), "assetId": a.id(), "sellerId": seller.id.String(), "price": `{"currency":"EUR","minor":"1999"}`, "originRegion": "us-east",
	} {
		if got := bought.field(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if bought.header.Get(rpc.HeaderDurability) != "local" || bought.field("createTime") == "" {
		t.Errorf("bought: %v %s", bought.header, bought.body)
	}
	purchase, path := order(a, 1999, "EUR"), a.path()+":purchase"
	if again := f.buy(t, buyer, a, "k"); again.body != bought.body {
		t.Errorf("the key once more: %s, after %s", again.body, bought.body)
	}
	f.refused(t, "key_reused", post, path, order(a, 2000, "EUR"), buyer.keyed("k")...)
	f.refused(t, "key_reused", post, f.photo(t, seller, forSale).path()+":purchase", purchase, buyer.keyed("k")...)
	for name, one := range map[string]struct {
		reason, fields string
		p              person
		a              answer
		body           string
	}{
		"own":                       {"invalid", "owner_id", seller, a, purchase},
		"cheaper":                   {"invalid", "price", buyer, a, order(a, 1998, "EUR")},
		"another currency":          {"invalid", "price", buyer, a, order(a, 1999, "USD")},
		"not for sale, not seen":    {"not_found", "", buyer, f.photo(t, f.person(t), private), ""},
		"not for sale, seen":        {"invalid", "id", buyer, f.photo(t, f.person(t), public), ""},
		"without content":           {"not_found", "", buyer, f.create(t, f.person(t), forSale), ""},
		"of the buyer, by mistake":  {"not_found", "", buyer, a, orderFrom(buyer.id.String())},
		"of nobody":                 {"not_found", "", buyer, answer{body: `{"id":"` + buyer.id.String() + `"}`}, purchase},
		"of no seller":              {"invalid", "owner_id", buyer, a, orderFrom("x")},
		"of a seller who is nobody": {"not_found", "", buyer, a, orderFrom(id.Keyed([]byte("test"), "nobody").String())},
	} {
		body := one.body
		if body == "" {
			body = order(one.a, 1999, "EUR")
		}
		got := f.refused(t, one.reason, post, one.a.path()+":purchase", body, one.p.keyed("other")...)
		if fields := fmt.Sprint(got.violations()); one.fields != "" && fields != "["+one.fields+"]" {
			t.Errorf("%s: %s", name, got.body)
		}
	}
	// What came before is a repetition, whatever became of the asset.
	f.ok(t, patch, a.path(), `{"price":{"minor":5000,"currency":"EUR"}}`, seller.headers()...)
	if again := f.buy(t, buyer, a, "k"); again.body != bought.body {
		t.Errorf("dearer by now: %s", again.body)
	}
	f.ok(t, remove, a.path(), "", seller.headers()...)
	if again := f.buy(t, buyer, a, "k"); again.body != bought.body {
		t.Errorf("gone by now: %s", again.body)
	}
	f.refused(t, "not_found", post, path, purchase, buyer.keyed("l")...)
	if l := f.ledger(t, buyer); l.field("totals") != `[{"currency":"EUR","minor":"1999","purchases":"1"}]` || !slices.Equal(l.ids("purchases"), []string{bought.id()}) {
		t.Errorf("the ledger: %s", l.body)
	}
}

func (f *fixture) testPurchases(t *testing.T) {
	seller, buyer, admin := f.person(t), f.person(t), f.admin(t)
	euros := f.photo(t, seller, forSale)
	dollars := f.photo(t, seller, `{"price":{"minor":5,"currency":"USD"}}`)
	var all []string
	for i := range 5 {
		f.clock.forward(t, time.Millisecond)
		all = append(all, f.buy(t, buyer, euros, fmt.Sprint(i)).id())
	}
	f.clock.forward(t, time.Millisecond)
	all = append(all, f.ok(t, post, dollars.path()+":purchase", order(dollars, 5, "USD"), buyer.keyed("5")...).id())
	var got []string
	for token, pages := "", 0; ; pages++ {
		a := f.ok(t, get, "/v1/assets:listPurchases?pageSize=4&pageToken="+token, "", buyer.headers()...)
		if a.field("totals") != `[{"currency":"EUR","minor":"9995","purchases":"5"},{"currency":"USD","minor":"5","purchases":"1"}]` {
			t.Errorf("page %d: the sums are %s", pages, a.field("totals"))
		}
		got = append(got, a.ids("purchases")...)
		if token = a.field("nextPageToken"); token == "" {
			break
		}
	}
	if !slices.Equal(got, all) {
		t.Errorf("listed %v, bought %v", got, all)
	}
	of := "/v1/assets:listPurchases?userId=" + buyer.id.String()
	if a := f.ok(t, get, of, "", admin.headers()...); !slices.Equal(a.ids("purchases"), all) {
		t.Errorf("by an administrator: %s", a.body)
	}
	f.refused(t, "forbidden", get, of, "", seller.headers()...)
	if a := f.ledger(t, seller); a.field("purchases") != "[]" || a.field("totals") != "[]" || a.field("nextPageToken") != "" {
		t.Errorf("an empty ledger: %s", a.body)
	}
}
