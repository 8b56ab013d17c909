package asset

import (
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

// entryID is the id of a purchase with this idempotency key.
func entryID(buyer id.ID, key string) id.ID {
	v := id.Keyed([]byte(strings.Repeat("k", 32)), "PurchaseAsset", buyer.String(), key)
	v[6], v[7] = v[6]&0xf0, slot // among the buyer's records
	return v
}

// purchase takes a purchase at a place, as the service will.
func (p *place) purchase(t require, key string, what Purchase) error {
	t.Helper()
	entry := entryID(what.Buyer, key)
	if was, there := read[*assetv1.LedgerRecord](t, p, LedgerType, entry); there {
		return what.Repeats(was)
	}
	p.write(t, LedgerType, entry, what.Entry("region of "+p.engine.Replica.String(), p.now), true)
	return nil
}

// ledger is what a place knows of the user's purchases.
func (p *place) ledger(t require) iter.Seq[*assetv1.LedgerRecord] {
	t.Helper()
	return func(yield func(*assetv1.LedgerRecord) bool) {
		for k := range p.user.Records {
			if k.Type != LedgerType {
				continue
			}
			if rec, there := read[*assetv1.LedgerRecord](t, p, LedgerType, k.ID); there && !yield(rec) {
				return
			}
		}
	}
}

// TestARepeatedPurchaseIsOne: a client sends each purchase once or more, to any regions, which hear of each other when they do. In the end each has one entry, of which nothing is a conflict, and the sum is that of the purchases.
func TestARepeatedPurchaseIsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		buyer := someID(t, 0)
		all := places(t, buyer, 3)
		want := map[string]Total{}
		n := rapid.IntRange(1, 15).Draw(t, "purchases")
		for i := range n {
			what := Purchase{Buyer: buyer, Asset: someID(t, 10+i%3), Seller: someID(t, 20), Price: Price{
				rapid.Int64Range(1, MaxMinor).Draw(t, "minor"), rapid.SampledFrom([]string{"EUR", "USD"}).Draw(t, "currency"),
			}}
			for _, at := range rapid.SliceOfN(rapid.IntRange(0, 2), 1, 5).Draw(t, "tried at") {
				all[at].now = all[at].now.Add(time.Hour)
				if err := all[at].purchase(t, fmt.Sprint("key ", i), what); err != nil {
					t.Fatal(err)
				}
				meetSome(t, all)
			}
			sum := want[what.Price.Currency]
			want[what.Price.Currency] = Total{Price{sum.Minor + what.Price.Minor, what.Price.Currency}, sum.Purchases + 1}
		}
		meetAll(t, all)
		for _, p := range all {
			totals, err := Totals(p.ledger(t))
			if err != nil || len(totals) != len(want) || !slices.IsSortedFunc(totals, func(a, b Total) int { return strings.Compare(a.Currency, b.Currency) }) {
				t.Fatalf("%v, %v, want %v", totals, err, want)
			}
			for _, total := range totals {
				if total != want[total.Currency] {
					t.Fatalf("%v, want %v", total, want[total.Currency])
				}
			}
			if len(p.user.Conflicts) > 0 {
				t.Fatalf("%d conflicts", len(p.user.Conflicts))
			}
		}
	})
}

// TestAKeyThatIsUsedTwice is refused where the first purchase is known. Where it is not, both are taken; one stays, whole, everywhere, and people see what became of the other.
func TestAKeyThatIsUsedTwice(t *testing.T) {
	buyer := someID(t, 0)
	first := Purchase{Buyer: buyer, Asset: someID(t, 1), Seller: someID(t, 2), Price: Price{100, "EUR"}}
	for name, second := range map[string]Purchase{
		"another asset":    {Buyer: buyer, Asset: someID(t, 3), Seller: first.Seller, Price: first.Price},
		"another seller":   {Buyer: buyer, Asset: first.Asset, Seller: someID(t, 3), Price: first.Price},
		"another price":    {Buyer: buyer, Asset: first.Asset, Seller: first.Seller, Price: Price{101, "EUR"}},
		"another currency": {Buyer: buyer, Asset: first.Asset, Seller: first.Seller, Price: Price{100, "USD"}},
		"all of it":        {Buyer: buyer, Asset: someID(t, 3), Seller: someID(t, 4), Price: Price{1, "JPY"}},
	} {
		t.Run(name, func(t *testing.T) {
			all := places(t, buyer, 3)
			if err := all[0].purchase(t, "key", first); err != nil {
				t.Fatal(err)
			}
			if err := all[0].purchase(t, "key", second); fault.From(err).Kind != fault.KeyReused {
				t.Errorf("where the first is known: %v", err)
			}
			if err := all[1].purchase(t, "key", second); err != nil {
				t.Errorf("where it is not: %v", err)
			}
			meetAll(t, all)
			var entries []Purchase
			for rec := range all[2].ledger(t) {
				p, err := ReadEntry(buyer, rec)
				if err != nil {
					t.Fatal(err)
				}
				entries = append(entries, p)
			}
			if len(entries) != 1 || entries[0] != first && entries[0] != second {
				t.Errorf("the ledger is %v", entries)
			}
			if len(all[2].user.Conflicts) == 0 {
				t.Error("nobody is told")
			}
			lost := first
			if entries[0] == first {
				lost = second
			}
			if err := all[2].purchase(t, "key", lost); fault.From(err).Kind != fault.KeyReused {
				t.Errorf("a retry of the lost one: %v", err)
			}
		})
	}
}

func TestEntry(t *testing.T) {
	p := Purchase{Buyer: someID(t, 0), Asset: someID(t, 1), Seller: someID(t, 2), Price: Price{100, "EUR"}}
	entry := p.Entry("eu-west", start.Add(time.Microsecond))
	if got, err := ReadEntry(p.Buyer, entry); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
	if entry.GetOriginRegion() != "eu-west" || !entry.GetCreateTime().AsTime().Equal(start) {
		t.Errorf("%v", entry)
	}
	for _, change := range []func(*assetv1.LedgerRecord){
		func(e *assetv1.LedgerRecord) { e.AssetId = e.AssetId[1:] },
		func(e *assetv1.LedgerRecord) { e.SellerId = nil },
	} {
		bad := proto.CloneOf(entry)
		change(bad)
		if _, err := ReadEntry(p.Buyer, bad); err == nil {
			t.Errorf("%v is read", bad)
		}
		if err := p.Repeats(bad); err == nil || fault.From(err).Kind != fault.Internal {
			t.Errorf("%v", err)
		}
	}
}

func TestPrice(t *testing.T) {
	for text, want := range map[string]Price{"1 EUR": {1, "EUR"}, "1000000000000 JPY": {MaxMinor, "JPY"}} {
		if got, there, err := ParsePrice(text); err != nil || !there || got != want || got.String() != text {
			t.Errorf("%q is %v, %t, %v", text, got, there, err)
		}
	}
	if _, there, err := ParsePrice(""); there || err != nil {
		t.Errorf("none is %t, %v", there, err)
	}
	for _, text := range []string{" ", "1", "1 ", "EUR", "0 EUR", "-1 EUR", "+1 EUR", "01 EUR", "1.5 EUR", "1000000000001 EUR", "99999999999999999999 EUR", "1 eur", "1 EU", "1 EURO", "1 E\u00dcR", "1  EUR", "1 EUR "} {
		if got, _, err := ParsePrice(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	if bad := (Price{0, "eur"}).Check("price"); bad == nil || len(bad.Violations) != 2 || bad.Violations[0].Field != "price.minor" || bad.Violations[1].Field != "price.currency" {
		t.Errorf("%v", bad)
	}
}

func TestAgrees(t *testing.T) {
	p := Purchase{Buyer: someID(t, 0), Asset: someID(t, 1), Seller: someID(t, 2), Price: Price{100, "EUR"}}
	for name, tt := range map[string]struct {
		rec   *assetv1.AssetRecord
		p     func(p *Purchase)
		kind  fault.Kind
		field string
	}{
		"as offered":           {rec: &assetv1.AssetRecord{Price: "100 EUR", State: assetv1.AssetRecord_STATE_READY}},
		"dearer":               {rec: &assetv1.AssetRecord{Price: "101 EUR", State: assetv1.AssetRecord_STATE_READY}, kind: fault.Invalid, field: "price"},
		"in another currency":  {rec: &assetv1.AssetRecord{Price: "100 USD", State: assetv1.AssetRecord_STATE_READY}, kind: fault.Invalid, field: "price"},
		"not for sale":         {rec: &assetv1.AssetRecord{State: assetv1.AssetRecord_STATE_READY}, kind: fault.Invalid, field: "id"},
		"without content":      {rec: &assetv1.AssetRecord{Price: "100 EUR", State: assetv1.AssetRecord_STATE_UPLOADING}, kind: fault.NotFound},
		"one's own":            {rec: &assetv1.AssetRecord{Price: "100 EUR", State: assetv1.AssetRecord_STATE_READY}, p: func(p *Purchase) { p.Seller = p.Buyer }, kind: fault.Invalid, field: "owner_id"},
		"for nothing":          {rec: &assetv1.AssetRecord{Price: "100 EUR", State: assetv1.AssetRecord_STATE_READY}, p: func(p *Purchase) { p.Price.Minor = 0 }, kind: fault.Invalid, field: "price.minor"},
		"a price that is none": {rec: &assetv1.AssetRecord{Price: "much", State: assetv1.AssetRecord_STATE_READY}, kind: fault.Internal},
	} {
		what := p
		if tt.p != nil {
			tt.p(&what)
		}
		err := what.Agrees(tt.rec)
		if tt.kind == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		f := fault.From(err)
		if f == nil || f.Kind != tt.kind || tt.field != "" && (len(f.Violations) != 1 || f.Violations[0].Field != tt.field) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTotalsDoNotOverflow(t *testing.T) {
	entry := func(minor int64, currency string) *assetv1.LedgerRecord {
		return &assetv1.LedgerRecord{PriceMinor: minor, Currency: currency}
	}
	got, err := Totals(slices.Values([]*assetv1.LedgerRecord{entry(math.MaxInt64-1, "USD"), entry(5, "EUR"), entry(1, "USD")}))
	if want := []Total{{Price{5, "EUR"}, 1}, {Price{math.MaxInt64, "USD"}, 2}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := Totals(slices.Values([]*assetv1.LedgerRecord{entry(math.MaxInt64, "USD"), entry(1, "USD")})); fault.From(err) == nil || fault.From(err).Kind != fault.TooLarge {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := Totals(slices.Values([]*assetv1.LedgerRecord(nil))); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
