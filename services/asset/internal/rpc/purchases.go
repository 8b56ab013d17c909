package rpc

import (
	"context"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/resource"
	"antipode.example/platform/rpc"
	"antipode.example/services/asset"
)

// PurchaseAsset notes a purchase of the caller's.
func (s *Server) PurchaseAsset(ctx context.Context, r *assetv1.PurchaseAssetRequest) (*assetv1.Purchase, error) {
	call := rpc.FromContext(ctx)
	seller, err := resource.ParseID(r.GetOwnerId(), ownerField, aUser)
	if err != nil {
		return nil, err
	}
	one, err := resource.ParseID(r.GetId(), "id", anAsset)
	if err != nil {
		return nil, err
	}
	if call.IdempotencyKey == "" {
		return nil, resource.Invalid().With(rpc.HeaderIdempotencyKey, "is needed, so that a purchase that is repeated is one purchase")
	}
	p := asset.Purchase{Buyer: viewer(ctx).User, Asset: one, Seller: seller, Price: asset.Price{Minor: r.GetPrice().GetMinor(), Currency: r.GetPrice().GetCurrency()}}
	result, err := s.assets.Buy(ctx, p, call.IdempotencyKey, resource.Remote(call), seenBy(call))
	if err != nil {
		return nil, err
	}
	resource.Written(call, asset.ServiceName, result)
	return purchase(result.Copy)
}

// ListPurchases answers one page of a ledger, and the sums of all of it.
func (s *Server) ListPurchases(ctx context.Context, r *assetv1.ListPurchasesRequest) (*assetv1.ListPurchasesResponse, error) {
	call := rpc.FromContext(ctx)
	user, err := userOf(ctx, r.GetUserId(), userField)
	if err != nil {
		return nil, err
	}
	from, err := s.cursors.Open(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	l, err := s.assets.Purchases(ctx, user, from.CreateTime, from.ID, pageSize(r.GetPageSize()), seenBy(call)(user))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, asset.ServiceName, asset.LedgerCopy{Ref: copies.Own(user), Version: l.Version, Stale: l.Stale})
	out := &assetv1.ListPurchasesResponse{}
	for _, e := range l.Entries {
		m, err := purchase(e)
		if err != nil {
			return nil, err
		}
		out.Purchases = append(out.Purchases, m)
	}
	for _, t := range l.Totals {
		out.Totals = append(out.Totals, &assetv1.Total{Currency: t.Currency, Minor: t.Minor, Purchases: t.Purchases})
	}
	if l.More {
		last := l.Entries[len(l.Entries)-1]
		out.NextPageToken = s.cursors.Seal(resource.Position{CreateTime: last.Record.GetCreateTime().AsTime(), ID: last.ID})
	}
	return out, nil
}

// purchase is an entry of a ledger as callers see it.
func purchase(c asset.LedgerCopy) (*assetv1.Purchase, error) {
	if !c.Found { // its buyer was deleted meanwhile
		return nil, notFound(copies.Ref{ID: c.ID})
	}
	p, err := asset.ReadEntry(c.User, c.Record)
	if err != nil {
		return nil, err
	}
	return &assetv1.Purchase{
		Id: c.ID.String(), BuyerId: p.Buyer.String(), AssetId: p.Asset.String(), SellerId: p.Seller.String(), Price: &assetv1.Price{Minor: p.Price.Minor, Currency: p.Price.Currency},
		OriginRegion: c.Record.GetOriginRegion(), CreateTime: c.Record.GetCreateTime(),
	}, nil
}
