package asset

import (
	"context"
	"io"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/hlc"
	"antipode.example/services/asset/internal/media"
	"antipode.example/services/asset/internal/signedurl"
)

// Config is what a Service is made from. All is required but Elsewhere.
type Config struct {
	// Copies says where this region's copies of assets are.
	Copies copies.Config
	// Quota is what a user's assets may take up, and MaxUpload what one content may, in bytes.
	Quota     Usage
	MaxUpload int64
	// Signed makes and reads signed URLs; its keys are the same in every region.
	Signed signedurl.Keys
	// Elsewhere returns nil as soon as another region has a blob in its bucket, or why that is not known when ctx ends; nil in a region without peers.
	Elsewhere func(ctx context.Context, ref blob.Ref) error
	// Idempotency is the key under which idempotency keys become ids; the same in every region.
	Idempotency causal.Key
	Clock       hlc.Clock
	// Random is where ids come from.
	Random io.Reader
	Log    *slog.Logger
	Meter  metric.Meter
}

// Service is safe for concurrent use.
type Service struct {
	c       Config
	assets  *copies.Records[*assetv1.AssetRecord]
	ledgers *copies.Records[*assetv1.LedgerRecord]
	shelves *copies.Records[*assetv1.ShelfRecord]
}

// New makes a Service.
func New(c Config) (*Service, error) {
	return &Service{
		c:       c,
		assets:  copies.New[*assetv1.AssetRecord](c.Copies, RecordType, nil),
		ledgers: copies.New[*assetv1.LedgerRecord](c.Copies, LedgerType, nil),
		shelves: copies.New[*assetv1.ShelfRecord](c.Copies, ShelfType, nil),
	}, nil
}

type (
	// Copy is an asset as this region has it.
	Copy = copies.Copy[*assetv1.AssetRecord]
	// Result is an asset after a write.
	Result = copies.Result[*assetv1.AssetRecord]
)

// Projection says when an asset was created. Hidden are those that a worker has yet to look into, so that they can be found: there is no list of the assets of all users.
func Projection(m proto.Message) (createTime time.Time, visible bool) {
	rec, ok := m.(*assetv1.AssetRecord)
	return rec.GetCreateTime().AsTime(), ok && !Undeveloped(rec)
}

// Undeveloped reports whether an asset has content that is an image and that no worker has looked into.
func Undeveloped(rec *assetv1.AssetRecord) bool {
	c, err := Content(rec)
	if err != nil || c == nil || !media.Type(c.GetContentType()).Image() {
		return false
	}
	p, err := Picture(rec)
	return err == nil && p == nil
}
