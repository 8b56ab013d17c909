package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
	"antipode.example/regions/wan"
)

// price is what the thing for sale costs.
const (
	minor    = 1250
	forMoney = `{"price":{"minor":"1250","currency":"EUR"},"visibility":"VISIBILITY_PUBLIC","name":"for sale"}`
)

// flap cuts links and heals them, one after the other, until it is stopped; then all are whole.
func flap(t *testing.T) (stop func()) {
	t.Helper()
	w, names := world.Network().WAN(), world.Topology().RegionNames()
	ctx, cancel := context.WithCancel(t.Context())
	var flapping sync.WaitGroup
	flapping.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			pairs := wan.Both(names[i%len(names)], names[(i+1)%len(names)])
			if err := w.Cut(pairs...); err != nil {
				t.Error(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Duration(100+mathrand.IntN(900)) * time.Millisecond):
			}
			if err := w.Heal(pairs...); err != nil {
				t.Error(err)
			}
		}
	})
	stop = sync.OnceFunc(func() { cancel(); flapping.Wait() })
	t.Cleanup(stop)
	return stop
}

// purchase buys an asset with a key, and again until a region says that it is bought.
func (s *signedIn) purchase(ctx context.Context, at *lab.Region, a *assetv1.Asset, key string) (*assetv1.Purchase, error) {
	c, bought := client{access: s.access}, &assetv1.Purchase{}
	body := fmt.Sprintf(`{"ownerId":%q,"price":{"minor":"%d","currency":"EUR"}}`, a.GetOwnerId(), minor)
	var refused error
	err := await.For(ctx, "buy in "+at.Topology.Name, patience, func(ctx context.Context) error {
		got, err := c.try(ctx, at, http.MethodPost, "/v1/assets/"+a.GetId()+":purchase", body, "idempotency-key", key)
		if err != nil {
			return err
		}
		err = got.read(bought)
		if err != nil && got.Status < http.StatusInternalServerError && !passing(got) {
			refused, err = err, nil
		}
		return err
	})
	return bought, errors.Join(err, refused)
}

// TestAPurchaseIsMadeOnce: buyers send each purchase to every region, in any order and while links come and go. It is one entry of the ledger, the same everywhere, and every region has the same sum.
func TestAPurchaseIsMadeOnce(t *testing.T) {
	whole(t)
	ctx, east := t.Context(), region(t, "us-east")
	seller, buyer := signedInAt(t, east, join(t, east)), signedInAt(t, east, join(t, east))
	sold := seller.publish(t, east, forMoney, []byte("something worth its price"))
	for _, r := range world.Regions() { // both are known everywhere before anything is cut
		_, err := buyer.shown(ctx, r, sold, ready)
		must(t, err)
	}
	keys := make([]string, bounds.Times(500, 8))
	for i := range keys {
		keys[i] = rand.Text()
	}
	stop := flap(t)
	ids, errs := make([]string, len(keys)), make([]error, len(keys))
	turns := make(chan struct{}, 8)
	var buying sync.WaitGroup
	for i, key := range keys {
		turns <- struct{}{}
		buying.Go(func() {
			defer func() { <-turns }()
			ids[i], errs[i] = buyer.everywhere(ctx, sold, key)
		})
	}
	buying.Wait()
	stop()
	must(t, errors.Join(errs...))
	converged(t)
	must(t, buyer.renew(ctx, east))
	for _, r := range world.Regions() {
		found, totals := buyer.ledger(t, r)
		for i, id := range ids {
			if found[id] != 1 {
				t.Errorf("%s has the purchase %s of the key %s %d times", r.Topology.Name, id, keys[i], found[id])
			}
		}
		if len(found) != len(keys) || len(totals) != 1 || totals[0].GetMinor() != int64(len(keys))*minor || totals[0].GetPurchases() != int64(len(keys)) || totals[0].GetCurrency() != "EUR" {
			t.Errorf("in %s %d purchases cost %v, want %d", r.Topology.Name, len(found), totals, len(keys))
		}
	}
}

// everywhere makes one purchase in all regions at once, and twice, and returns its one id.
func (s *signedIn) everywhere(ctx context.Context, a *assetv1.Asset, key string) (string, error) {
	regions := world.Regions()
	regions = append(regions, regions...)
	mathrand.Shuffle(len(regions), func(i, j int) { regions[i], regions[j] = regions[j], regions[i] })
	bought, errs := make([]*assetv1.Purchase, len(regions)), make([]error, len(regions))
	var asking sync.WaitGroup
	for i, r := range regions {
		asking.Go(func() { bought[i], errs[i] = s.purchase(ctx, r, a, key) })
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	for _, p := range bought {
		if p.GetId() == "" || p.GetId() != bought[0].GetId() || p.GetPrice().GetMinor() != minor || p.GetAssetId() != a.GetId() || p.GetBuyerId() != s.user {
			return "", fmt.Errorf("one purchase is %v, and %v", bought[0], p)
		}
	}
	return bought[0].GetId(), nil
}

// ledger is how often a region has each of the user's purchases, and their sums.
func (s *signedIn) ledger(t *testing.T, at *lab.Region) (found map[string]int, totals []*assetv1.Total) {
	t.Helper()
	found = map[string]int{}
	for page := ""; ; {
		list := &assetv1.ListPurchasesResponse{}
		must(t, s.rest(t, http.StatusOK, at, http.MethodGet, "/v1/assets:listPurchases?pageSize=100&pageToken="+url.QueryEscape(page), "").read(list))
		for _, p := range list.GetPurchases() {
			found[p.GetId()]++
		}
		if page = list.GetNextPageToken(); page == "" {
			return found, list.GetTotals()
		}
	}
}
