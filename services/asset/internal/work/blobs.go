package work

import (
	"context"
	"io"

	"antipode.example/platform/blob"
)

// RegionBlobs are the blobs of a region whose bucket may lack what other regions have.
type RegionBlobs struct {
	Bucket *blob.Bucket
	// Puller is nil in a region without peers.
	Puller *blob.Puller
}

// Open opens content in the bucket or, if it is not there, in another region.
func (r RegionBlobs) Open(ctx context.Context, ref blob.Ref) (io.ReadSeekCloser, error) {
	open := r.Bucket.Open
	if r.Puller != nil {
		open = r.Puller.ReadThrough
	}
	c, err := open(ctx, ref)
	if err != nil {
		return nil, err // not c, which would be an interface with nothing in it
	}
	return c, nil
}

// Put stores content in the bucket.
func (r RegionBlobs) Put(ctx context.Context, from io.Reader, limit int64) (blob.Ref, error) {
	return r.Bucket.Put(ctx, from, limit)
}
