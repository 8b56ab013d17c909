package blob

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"time"

	gcblob "gocloud.dev/blob"
	"gocloud.dev/blob/s3blob"
	"gocloud.dev/gcerrors"
	"golang.org/x/sync/semaphore"
)

const (
	// partSize is the smallest that S3 takes; parts at a time and uploads at a time bound the memory, since the SDK holds parts in memory, and reads the first 16 MiB into a buffer that it lets grow.
	partSize    = 5 << 20
	partsAtOnce = 2
	putsAtOnce  = 4
	// usedWithin is how long ago an object may have been put that is not put again to be noted as used.
	usedWithin = time.Hour
)

// validation is a parameter of s3blob.
const validation = "response_checksum_validation"

// service keeps blobs in S3, or what speaks its protocol. Objects appear whole or not at all, and an answered upload lasts.
type service struct {
	objects *gcblob.Bucket
	uploads *semaphore.Weighted
}

func openService(ctx context.Context, u *url.URL) (*gcblob.Bucket, *service, error) {
	// Else the SDK writes to standard error of each object of several parts that it has no checksum of the whole. Pulls verify what they get; for readers, what TCP and TLS verify has to do.
	if q := u.Query(); !q.Has(validation) {
		q.Set(validation, "when_required")
		u.RawQuery = q.Encode()
	}
	objects, err := new(s3blob.URLOpener).OpenBucketURL(ctx, u)
	return objects, &service{objects: objects, uploads: semaphore.NewWeighted(putsAtOnce)}, err
}

// keep implements keeper.
func (k *service) keep(ctx context.Context, d *draft) error {
	ref := d.ref()
	key := ref.SHA256.key()
	a, err := k.objects.Attributes(ctx, key)
	switch {
	case err == nil && a.Size == ref.Size && time.Since(a.ModTime) < usedWithin:
		return nil
	case err != nil && gcerrors.Code(err) != gcerrors.NotFound:
		return err
	}
	if err := k.uploads.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("wait for an upload: %w", err)
	}
	defer k.uploads.Release(1)
	return k.objects.Upload(ctx, key, io.NewSectionReader(d.file, 0, d.size), &gcblob.WriterOptions{
		ContentType: "application/octet-stream", BufferSize: partSize, MaxConcurrency: partsAtOnce,
	})
}

// renew implements keeper. An object's time can't be set but by sending it again.
func (k *service) renew(ctx context.Context, ref Ref) (bool, error) {
	a, err := k.objects.Attributes(ctx, ref.SHA256.key())
	if gcerrors.Code(err) == gcerrors.NotFound {
		return false, nil
	}
	return err == nil && a.Size == ref.Size, err
}

// remove implements keeper.
func (k *service) remove(ctx context.Context, sum Sum, unusedSince time.Time) error {
	a, err := k.objects.Attributes(ctx, sum.key())
	if err != nil {
		return err
	}
	if !a.ModTime.Before(unusedSince) {
		return ErrInUse
	}
	return k.objects.Delete(ctx, sum.key())
}
