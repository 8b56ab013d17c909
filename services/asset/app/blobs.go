package app

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"antipode.example/platform/auth"
	"antipode.example/platform/blob"
	"antipode.example/platform/service"
	"antipode.example/services/asset"
)

// blobs are the contents of the region, and what fetches them from others.
type blobs struct {
	bucket *blob.Bucket
	puller *blob.Puller
	base   *http.Transport
}

// connecting is how long it may take to reach an instance in another region.
const connecting = 3 * time.Second

func (b *blobs) open(ctx context.Context, cfg *Config, p *service.Parts) error {
	var err error
	if b.bucket, err = blob.Open(ctx, cfg.Bucket, blob.Config{Spool: cfg.Spool, Meter: p.Meter, Log: p.Log}); err != nil {
		return err
	}
	b.base = &http.Transport{DialContext: (&net.Dialer{Timeout: connecting}).DialContext, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	client := &http.Client{Transport: auth.ServiceCredentials(p.Auth, asset.ServiceName).Transport(b.base)}
	var peers []blob.Peer
	for _, peer := range cfg.Peers {
		for _, address := range peer.API {
			peers = append(peers, blob.Peer{Region: peer.Region, Source: &blob.HTTPSource{Base: &url.URL{Scheme: "http", Host: address}, Client: client}})
		}
	}
	b.puller, err = blob.NewPuller(blob.PullerConfig{Bucket: b.bucket, Peers: peers, Meter: p.Meter, Log: p.Log})
	return err
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
