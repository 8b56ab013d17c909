package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"antipode.example/platform/auth"
	"antipode.example/platform/blob"
	"antipode.example/platform/service"
	"antipode.example/services/asset"
)

const (
	// dialTime and headTime are how long another region may take to be connected, and to begin its answer, before the next one is asked.
	dialTime = 5 * time.Second
	headTime = 10 * time.Second
)

// blobs are the region's blobs, and the way to those of other regions.
type blobs struct {
	bucket *blob.Bucket
	puller *blob.Puller
	http   *http.Client
}

// openBlobs opens the region's bucket. Other regions are asked in the order of the configuration, each of their instances by itself.
func openBlobs(ctx context.Context, cfg *Config, p *service.Parts) (b *blobs, err error) {
	b = &blobs{http: &http.Client{Transport: auth.ServiceCredentials(p.Auth, asset.ServiceName).Transport(&http.Transport{
		DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, ResponseHeaderTimeout: headTime, IdleConnTimeout: time.Minute,
	})}}
	if b.bucket, err = blob.Open(ctx, cfg.Bucket, blob.Config{Spool: cfg.Spool, Meter: p.Meter, Log: p.Log}); err != nil {
		return nil, err
	}
	b.puller, err = blob.NewPuller(blob.PullerConfig{Bucket: b.bucket, Peers: b.peers(cfg), Meter: p.Meter, Log: p.Log})
	if err != nil {
		return nil, errors.Join(err, b.bucket.Close())
	}
	return b, nil
}

func (b *blobs) peers(cfg *Config) []blob.Peer {
	var all []blob.Peer
	for _, region := range cfg.Peers {
		for _, address := range region.API {
			all = append(all, blob.Peer{Region: region.Region, Source: &blob.HTTPSource{Base: &url.URL{Scheme: "http", Host: address}, Client: b.http}})
		}
	}
	return all
}

// close ends what is being fetched, and gives up the spool.
func (b *blobs) close() error {
	b.puller.Close()
	b.http.CloseIdleConnections()
	if err := b.bucket.Close(); err != nil {
		return fmt.Errorf("close the bucket: %w", err)
	}
	return nil
}
