package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	gcblob "gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"antipode.example/platform/fault"
)

// Errors of buckets and of sources.
var (
	// ErrNotFound: there is no such blob, or it is damaged: another size than its name says.
	ErrNotFound = errors.New("there is no such blob")
	// ErrMismatch: content is not what it was announced to be. Callers get it as the cause of a fault of kind Invalid.
	ErrMismatch = errors.New("the content is not what was announced")
	// ErrInUse: a blob was put again since it was last known to be unused.
	ErrInUse = errors.New("the blob was put again")
)

// Config is what a Bucket needs besides its URL.
type Config struct {
	// Spool is a directory of this process alone, in which content is collected before its hash is known. With a file URL it must be on the bucket's file system. It needs room for all content that
	// comes in at a time.
	Spool string
	// Reserve is what Puts and pulls leave free on the spool's disk, in bytes; see Room. What does not fit is Unavailable.
	Reserve int64
	// Meter may be nil.
	Meter metric.Meter
	Log   *slog.Logger
}

// Bucket holds the blobs of one region. Any number of processes may have the same bucket open. It is safe for concurrent use.
type Bucket struct {
	objects *gcblob.Bucket
	keeper  keeper
	spool   *spool
	metrics *bucketMetrics
	log     *slog.Logger
}

// keeper is what differs between the kinds of buckets.
type keeper interface {
	// keep has the draft's content under its name for good when it returns nil. Others see the whole of it or nothing. A draft of content that is there already counts as a new use of it.
	keep(ctx context.Context, d *draft) error
	// renew is keep of content that may be there already, without the content: it reports whether it is. With S3 it is no new use.
	renew(ctx context.Context, ref Ref) (bool, error)
	// remove is Delete.
	remove(ctx context.Context, sum Sum, unusedSince time.Time) error
}

// Open opens the bucket at a URL: file:///directory, which is made when it is missing, or s3://bucket with the parameters of gocloud.dev/blob/s3blob (region, endpoint, use_path_style …; credentials
// come from where the AWS SDK looks for them). The bucket must answer. It fails when another process has the spool.
func Open(ctx context.Context, location string, cfg Config) (*Bucket, error) {
	u, err := url.Parse(location)
	if err != nil {
		return nil, fmt.Errorf("read the bucket's URL: %w", err)
	}
	if cfg.Spool == "" || cfg.Log == nil {
		return nil, errors.New("a bucket needs a spool and a log")
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	b := &Bucket{log: cfg.Log}
	if b.metrics, err = newBucketMetrics(ctx, cfg.Meter); err != nil {
		return nil, err
	}
	if b.spool, err = openSpool(cfg.Spool); err != nil {
		return nil, err
	}
	b.spool.room.Reserve = cfg.Reserve
	if err := b.connect(ctx, u); err != nil {
		return nil, errors.Join(fmt.Errorf("open the bucket %s: %w", u.Redacted(), err), b.Close())
	}
	return b, nil
}

func (b *Bucket) connect(ctx context.Context, u *url.URL) (err error) {
	switch u.Scheme {
	case "file":
		b.objects, b.keeper, err = openDirectory(ctx, u, b.spool)
	case "s3":
		b.objects, b.keeper, err = openService(ctx, u)
	default:
		err = fmt.Errorf("its scheme is %q, not file or s3", u.Scheme)
	}
	if err != nil {
		return err
	}
	switch there, err := b.objects.IsAccessible(ctx); {
	case err != nil:
		return err
	case !there:
		return errors.New("it does not exist")
	}
	return nil
}

// Close releases the bucket and the spool. Nothing of the bucket may be in use any more.
func (b *Bucket) Close() error {
	var err error
	if b.objects != nil {
		err = b.objects.Close()
	}
	return errors.Join(err, b.spool.close())
}

// Put stores what r has, at most limit bytes, and says what it is called. When it returns nil the content is there for good: see the package's guarantees. When it does not, nothing is left of it. Content
// that is there already is not stored twice. Errors: a fault of kind TooLarge; Unavailable when it cannot be stored now; what r or ctx says, wrapped.
func (b *Bucket) Put(ctx context.Context, r io.Reader, limit int64) (Ref, error) {
	ref, err := b.put(ctx, r, limit, nil)
	if errors.Is(err, errTooLong) {
		err = fault.New(fault.TooLarge, "the content has more than %d bytes", limit)
	}
	b.metrics.put(ctx, ref, err)
	return ref, err
}

// PutExpected is Put of content that must be want. Content that is not is a fault of kind Invalid with the cause ErrMismatch.
func (b *Bucket) PutExpected(ctx context.Context, r io.Reader, want Ref) error {
	ref, err := b.put(ctx, r, want.Size, &want)
	if errors.Is(err, errTooLong) || errors.Is(err, ErrMismatch) {
		err = fault.New(fault.Invalid, "the content does not have the hash and the size that were announced").Because(ErrMismatch)
	}
	b.metrics.put(ctx, ref, err)
	return err
}

func (b *Bucket) put(ctx context.Context, r io.Reader, limit int64, want *Ref) (Ref, error) {
	d, err := b.spool.create()
	if err != nil {
		return Ref{}, broken("take content in", err)
	}
	defer d.discard()
	if err := d.fill(ctx, b.spool.room.Reader(r), limit); err != nil {
		return Ref{}, err
	}
	ref := d.ref()
	if want != nil && ref != *want {
		return Ref{}, ErrMismatch
	}
	return ref, b.keep(ctx, d)
}

func (b *Bucket) keep(ctx context.Context, d *draft) error {
	return broken("store blob "+d.ref().SHA256.String(), b.keeper.keep(ctx, d))
}

// Has reports whether the blob is here. It does not read it. Errors: Unavailable.
func (b *Bucket) Has(ctx context.Context, ref Ref) (bool, error) {
	a, err := b.objects.Attributes(ctx, ref.SHA256.key())
	switch {
	case gcerrors.Code(err) == gcerrors.NotFound:
		return false, nil
	case err != nil:
		return false, broken("look for blob "+ref.SHA256.String(), err)
	}
	return a.Size == ref.Size, nil
}

// Open opens a blob to be read, with ctx. Errors: ErrNotFound; Unavailable. The content is not verified: what a disk has changed since is not noticed here, but in the region that pulls it.
func (b *Bucket) Open(ctx context.Context, ref Ref) (*Content, error) {
	c, err := b.open(ctx, ref.SHA256)
	if err == nil && c.size != ref.Size {
		return nil, fmt.Errorf("blob %s has %d bytes instead of %d: %w", ref.SHA256, c.size, ref.Size, ErrNotFound)
	}
	return c, err
}

func (b *Bucket) open(ctx context.Context, sum Sum) (*Content, error) {
	key := sum.key()
	a, err := b.objects.Attributes(ctx, key)
	if err != nil {
		return nil, broken("open blob "+sum.String(), err)
	}
	return &Content{
		sum:  sum,
		size: a.Size,
		open: func(offset int64) (io.ReadCloser, error) {
			r, err := b.objects.NewRangeReader(ctx, key, offset, -1, nil)
			if err != nil {
				return nil, err
			}
			return r, nil
		},
		count: func(n int64) { b.metrics.bytes.read(ctx, n) },
	}, nil
}

// Delete removes a blob that nobody has put since unusedSince: garbage, of which a sweep knows that no record names it. Readers that have it open may go on or break off. Errors: ErrNotFound; ErrInUse when it was put later;
// Unavailable.
//
// With a file URL no Put is lost whatever the order is. With S3, which has no such operation, unusedSince must be two hours ago or more, and a Put of the very content within the moment between the last
// look and the deletion would be lost: what sweeps should therefore do is to keep what was put within a day.
func (b *Bucket) Delete(ctx context.Context, sum Sum, unusedSince time.Time) error {
	return broken("delete blob "+sum.String(), b.keeper.remove(ctx, sum, unusedSince))
}

// Stored is a blob as List finds it.
type Stored struct {
	Ref
	// Put is when it was last put, by the clock of the disk or the service; with S3 it may be an hour too old.
	Put time.Time
}

// List yields the blobs in the order of their hashes, from one on, without reading them; Sum{} begins at the beginning. It holds one page of at most 1000 at a time. What is put or deleted meanwhile
// may be among them or not. An error, of kind Unavailable, is the last that it yields.
func (b *Bucket) List(ctx context.Context, from Sum) iter.Seq2[Stored, error] {
	return func(yield func(Stored, error) bool) {
		// Directory by directory: listing a file system by pages costs a walk through everything for each page.
		for first := int(from[0]); first < 256; first++ {
			prefix := fmt.Sprintf("%s%02x/", keyPrefix, first)
			for token := gcblob.FirstPageToken; len(token) > 0; {
				var page []*gcblob.ListObject
				var err error
				if page, token, err = b.page(ctx, token, prefix); err != nil {
					yield(Stored{}, broken("list blobs", err))
					return
				}
				for _, o := range page {
					sum, ok := sumOfKey(o.Key)
					if !ok || string(sum[:]) < string(from[:]) {
						continue
					}
					if !yield(Stored{Ref: Ref{SHA256: sum, Size: o.Size}, Put: o.ModTime}, nil) {
						return
					}
				}
			}
		}
	}
}

const pageSize = 1000

// page looks again when a blob was deleted while its directory was listed, which fileblob takes for a failure.
func (b *Bucket) page(ctx context.Context, token []byte, prefix string) (page []*gcblob.ListObject, next []byte, err error) {
	for range 10 {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		page, next, err = b.objects.ListPage(ctx, token, pageSize, &gcblob.ListOptions{Prefix: prefix})
		if gcerrors.Code(err) != gcerrors.NotFound {
			break
		}
	}
	return page, next, err
}

// broken is the one place where errors of disks and services become faults. Faults, ends of contexts and this package's own errors stay what they are.
func broken(doing string, err error) error {
	var f *fault.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &f):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrNotFound), errors.Is(err, ErrInUse):
		return fmt.Errorf("%s: %w", doing, err)
	case gcerrors.Code(err) == gcerrors.NotFound:
		return fmt.Errorf("%s: %w", doing, errors.Join(ErrNotFound, err))
	}
	return fault.New(fault.Unavailable, "the content cannot be read or stored now").Because(fmt.Errorf("%s: %w", doing, err))
}
