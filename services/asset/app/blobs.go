package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/blob"
	"antipode.example/platform/record"
	"antipode.example/platform/service"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/stock"
)

// blobs are the contents of the region, and what fetches them from others.
type blobs struct {
	bucket *blob.Bucket
	puller *blob.Puller
	stock  *stock.Stock
	// sources are the instances in other regions.
	sources []stock.Source
	base    *http.Transport
}

// connecting is how long it may take to reach an instance in another region.
const connecting = 3 * time.Second

func (b *blobs) open(ctx context.Context, cfg *Config, p *service.Parts) error {
	var err error
	if b.bucket, err = blob.Open(ctx, cfg.Bucket, blob.Config{Spool: cfg.Spool, Reserve: cfg.ReserveBytes, Meter: p.Meter, Log: p.Log}); err != nil {
		return err
	}
	b.base = &http.Transport{DialContext: (&net.Dialer{Timeout: connecting}).DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	client := clientOf(auth.ServiceCredentials(p.Auth, asset.ServiceName).Transport(b.base))
	var peers []blob.Peer
	for _, peer := range cfg.Peers {
		for _, address := range peer.API {
			source := &blob.HTTPSource{Base: &url.URL{Scheme: "http", Host: address}, Client: client}
			peers = append(peers, blob.Peer{Region: peer.Region, Source: source})
			b.sources = append(b.sources, source)
		}
	}
	if b.puller, err = blob.NewPuller(blob.PullerConfig{Bucket: b.bucket, Peers: peers, Meter: p.Meter, Log: p.Log}); err != nil {
		return err
	}
	b.stock, err = stock.New(ctx, stock.Config{
		Bucket: b.bucket, Fetch: b.puller.Fetch, Named: named(p.Copies.Registry), NamedInConflict: asset.BlobsInConflict, Store: p.Store, Leases: p.Leases, Synced: p.Synced,
		GarbageAfter: cfg.GarbageAfter, Log: p.Log, Meter: p.Meter,
	})
	return err
}

// clientOf asks the instances that are configured, and no other address that they send it to: the transport would show this service's credentials there.
func clientOf(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// named are the blobs that a record names.
func named(registry *record.Registry) func(*recordv1.Record) ([]blob.Ref, error) {
	return func(rec *recordv1.Record) ([]blob.Ref, error) {
		if rec.GetType() != asset.RecordType || rec.GetDeleted() != nil {
			return nil, nil
		}
		m, err := registry.Decode(rec)
		if err != nil {
			return nil, fmt.Errorf("decode an asset: %w", err)
		}
		of, ok := m.(*assetv1.AssetRecord)
		if !ok {
			return nil, fmt.Errorf("record of an asset is a %T", m)
		}
		return asset.Blobs(of)
	}
}

// elsewhere waits until another region has a blob; nil where there is none.
func (b *blobs) elsewhere() func(context.Context, blob.Ref) error {
	if len(b.sources) == 0 {
		return nil
	}
	return func(ctx context.Context, ref blob.Ref) error { return stock.Elsewhere(ctx, b.sources, ref) }
}

// close releases what was opened.
func (b *blobs) close(context.Context) error {
	if b.puller != nil {
		b.puller.Close()
		b.base.CloseIdleConnections()
	}
	if b.bucket == nil {
		return nil
	}
	return b.bucket.Close()
}
