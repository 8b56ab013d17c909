package asset

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

// MaxMinor is the highest price, in minor units of its currency. Nine million purchases of it can be summed.
const MaxMinor = 1_000_000_000_000

// Price is an amount of money: minor units (cents) of a currency, which is three upper-case letters (ISO 4217; which of them are in use is not asked: regions with newer and older lists would disagree).
type Price struct {
	Minor    int64
	Currency string
}

// String is "1999 EUR", as it stands in AssetRecord.price.
func (p Price) String() string { return fmt.Sprintf("%d %s", p.Minor, p.Currency) }

// ParsePrice reads what String has written; there is none in an empty text.
func ParsePrice(text string) (p Price, there bool, err error) {
	if text == "" {
		return Price{}, false, nil
	}
	minor, currency, _ := strings.Cut(text, " ")
	p.Currency = currency
	p.Minor, err = strconv.ParseInt(minor, 10, 64)
	if err != nil || p.Check("price") != nil || p.String() != text {
		return Price{}, false, fmt.Errorf("%q is not a price", text)
	}
	return p, true, nil
}

// Check is the fault of what is no price, about the field that holds it; nil if there is none.
func (p Price) Check(field string) *fault.Error {
	bad := fault.New(fault.Invalid, "the request is not valid")
	if p.Minor < 1 || p.Minor > MaxMinor {
		bad = bad.With(field+".minor", "must be 1 to %d", int64(MaxMinor))
	}
	if len(p.Currency) != 3 || strings.ContainsFunc(p.Currency, func(r rune) bool { return r < 'A' || r > 'Z' }) {
		bad = bad.With(field+".currency", "must be a currency of ISO 4217 in upper case")
	}
	if len(bad.Violations) == 0 {
		return nil
	}
	return bad
}

// Purchase is what a buyer asks for. It says all that its entry in the ledger will say, so that a retry makes the same entry in a region that knows another price, or does not know the last one's.
type Purchase struct {
	Buyer, Asset, Seller id.ID
	Price                Price
}

// Entry is the purchase as it stands in the buyer's ledger.
func (p Purchase) Entry(region string, now time.Time) *assetv1.LedgerRecord {
	return &assetv1.LedgerRecord{
		AssetId: p.Asset[:], SellerId: p.Seller[:], PriceMinor: p.Price.Minor, Currency: p.Price.Currency,
		OriginRegion: region, CreateTime: timestamppb.New(now.Truncate(time.Millisecond)),
	}
}

// ReadEntry is the purchase that an entry of a buyer's ledger tells of.
func ReadEntry(buyer id.ID, entry *assetv1.LedgerRecord) (Purchase, error) {
	p := Purchase{Buyer: buyer, Price: Price{entry.GetPriceMinor(), entry.GetCurrency()}}
	var err error
	if p.Asset, err = id.FromBytes(entry.GetAssetId()); err != nil {
		return Purchase{}, fmt.Errorf("read an entry of the ledger: asset: %w", err)
	}
	if p.Seller, err = id.FromBytes(entry.GetSellerId()); err != nil {
		return Purchase{}, fmt.Errorf("read an entry of the ledger: seller: %w", err)
	}
	return p, nil
}

// Repeats is nil when the entry that is already there under the purchase's idempotency key is this purchase; it is asked before all else, as the asset may be dearer or gone by now. Errors: key_reused.
func (p Purchase) Repeats(entry *assetv1.LedgerRecord) error {
	was, err := ReadEntry(p.Buyer, entry)
	switch {
	case err != nil:
		return err
	case was != p:
		return fault.New(fault.KeyReused, "the idempotency key came with another purchase before: of asset %s for %s", was.Asset, was.Price)
	}
	return nil
}

// Agrees is nil when a purchase is what the asset, as it is here, is offered for. Errors: not_found, when it has no content yet; invalid.
func (p Purchase) Agrees(rec *assetv1.AssetRecord) error {
	if bad := p.Price.Check("price"); bad != nil {
		return bad
	}
	asked, forSale, err := ParsePrice(rec.GetPrice())
	bad := fault.New(fault.Invalid, "the request is not valid")
	switch {
	case err != nil:
		return fmt.Errorf("read what asset %s costs: %w", p.Asset, err)
	case rec.GetState() != assetv1.AssetRecord_STATE_READY:
		return fault.New(fault.NotFound, "there is no asset %s", p.Asset)
	case p.Buyer == p.Seller:
		return bad.With("owner_id", "is the buyer: nobody buys what is his own")
	case !forSale:
		return bad.With("id", "asset %s is not for sale", p.Asset)
	case p.Price != asked:
		return bad.With("price", "is %s, and the asset costs %s", p.Price, asked)
	}
	return nil
}

// Total is the sum of all purchases in one currency.
type Total struct {
	Price
	Purchases int64
}

// Totals sums up entries of a ledger, in the order of the currencies. Errors: too_large, when a sum is more than can be told.
func Totals(entries iter.Seq[*assetv1.LedgerRecord]) ([]Total, error) {
	sums := map[string]Total{}
	for e := range entries {
		t := sums[e.GetCurrency()]
		if e.GetPriceMinor() > math.MaxInt64-t.Minor {
			return nil, fault.New(fault.TooLarge, "the purchases in %s come to more than can be told", e.GetCurrency())
		}
		sums[e.GetCurrency()] = Total{Price{t.Minor + e.GetPriceMinor(), e.GetCurrency()}, t.Purchases + 1}
	}
	return slices.SortedFunc(maps.Values(sums), func(a, b Total) int { return cmp.Compare(a.Currency, b.Currency) }), nil
}
