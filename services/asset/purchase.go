package asset

import (
	"context"
	"slices"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
)

// LedgerResult is a purchase after a write.
type LedgerResult = copies.Result[*assetv1.LedgerRecord]

// Buy notes a purchase in the buyer's ledger. With a key that came before, with the same purchase, it answers that one, also when the asset is dearer or gone by now. Errors: invalid, for an asset of the buyer's own or one that is not for sale, and
// when the price is not the asset's in this region; not_found, also for an asset that is not for sale and that the buyer does not see; key_reused; token_ahead, when this region does not have what the buyer has seen of the seller.
func (s *Service) Buy(ctx context.Context, p Purchase, key string, remote bool, seen copies.SeenFunc) (LedgerResult, error) {
	if err := s.ledgers.MayWrite(); err != nil {
		return LedgerResult{}, err
	}
	ref := copies.Ref{User: p.Buyer, ID: id.KeyedIn(p.Buyer.Slot(), s.c.Idempotency.Secret, "PurchaseAsset", p.Buyer.String(), key)}
	known, err := s.known(ctx, ref)
	if err != nil {
		return LedgerResult{}, err
	}
	if !known {
		if err := s.offered(ctx, p, seen); err != nil {
			return LedgerResult{}, err
		}
	}
	return s.ledgers.Write(ctx, copies.Write{Ref: ref, Keyed: true, Remote: remote, Seen: seen(p.Buyer), Do: func(d *state.Draft) error {
		entry, there, err := s.ledgers.Draft(d, ref.ID)
		switch {
		case err != nil:
			return err
		case there:
			return p.Repeats(entry)
		}
		return d.Put(s.ledgers.Key(ref.ID), p.Entry(s.c.Copies.Region, d.Now()))
	}})
}

// known reports whether an entry is here.
func (s *Service) known(ctx context.Context, ref copies.Ref) (bool, error) {
	u, err := s.c.Copies.Store.Read(ctx, store.Primary, ref.User, s.ledgers.Key(ref.ID))
	return err == nil && !u.Grave() && u.Records[s.ledgers.Key(ref.ID)] != nil, err
}

// offered is nil when the asset is here, for sale at this price.
func (s *Service) offered(ctx context.Context, p Purchase, seen copies.SeenFunc) error {
	ref := copies.Ref{User: p.Seller, ID: p.Asset}
	c, err := s.get(ctx, ref, seen(p.Seller))
	if err == nil && c.Found && c.Record.GetPrice() == "" {
		var sight Sight
		sight, err = s.Get(ctx, ref, Viewer{User: p.Buyer}, seen)
		c = sight.Copy
	}
	switch {
	case err != nil:
		return err
	case !c.Found:
		return s.assets.NotFound(p.Asset)
	}
	return p.Agrees(c.Record)
}

// Ledger is a part of a user's ledger, in the order of (create time, id), with the sums of all of it.
type Ledger struct {
	User id.ID
	copies.Version
	Entries []LedgerCopy
	// More: there are others behind them.
	More   bool
	Totals []Total
	// Stale: something that the caller has seen may be missing, and the caller allowed that.
	Stale bool
}

// Purchases answers up to limit entries of a user's ledger after (after, afterID). Errors: as Get; too_large, when a sum is more than can be told.
func (s *Service) Purchases(ctx context.Context, user id.ID, after time.Time, afterID id.ID, limit int, seen copies.Seen) (Ledger, error) {
	all, err := s.ledgers.OfUser(ctx, user, seen)
	if err != nil {
		return Ledger{}, err
	}
	l := Ledger{User: user, Version: all.Version, Stale: all.Stale}
	entries := make([]*assetv1.LedgerRecord, len(all.Copies))
	for i, e := range all.Copies {
		entries[i] = e.Record
	}
	if l.Totals, err = Totals(slices.Values(entries)); err != nil {
		return Ledger{}, err
	}
	l.Entries, l.More = pageOf(all.Copies, func(e LedgerCopy) position { return position{e.Record.GetCreateTime().AsTime(), e.ID} }, position{after, afterID}, limit)
	return l, nil
}
