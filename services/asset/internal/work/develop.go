package work

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
)

// attempt does once what there is to do for an asset, of whose user this was seen. It waits for its turn. The caller has taken the asset. A panic is an error like others:
// it must not end a process that would find the same image again when it is back.
func (w *Worker) attempt(ctx context.Context, of copies.Ref, seen causal.Vector, how way) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("looking into asset %s panicked: %v\n%s", of.ID, p, debug.Stack())
		}
	}()
	leave, err := w.begin(ctx, of.ID)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, w.pace.image)
	defer cancel()
	job, ok, err := w.find(ctx, of, seen)
	if err != nil {
		return err
	}
	if !ok {
		w.metrics.ended(ctx, how, needless)
		return nil
	}
	d, err := w.develop(ctx, job)
	if err != nil {
		return fmt.Errorf("look into blob %s: %w", job.Content.SHA256, err)
	}
	noted, err := w.c.Assets.Develop(ctx, job, d)
	if err != nil {
		return err
	}
	w.tell(ctx, job, d, noted, how)
	return nil
}

// begin waits until an image may be looked into: with others, unless a process has died over it. Errors: errKills; that ctx ends.
func (w *Worker) begin(ctx context.Context, of id.ID) (leave func(), err error) {
	places := int64(1)
	switch n, last := w.deaths.over(of); {
	case n >= mostDeaths && time.Since(last) < mourning:
		return nil, errKills
	case n > 0:
		places = atOnce
	}
	if err := w.running.Acquire(ctx, places); err != nil {
		return nil, err
	}
	left := w.deaths.begin(of)
	return func() { left(); w.running.Release(places) }, nil
}

// find finds out what there is to do, as soon as the primary shows what was seen.
func (w *Worker) find(ctx context.Context, of copies.Ref, seen causal.Vector) (job asset.Job, ok bool, err error) {
	for n := 1; ; n++ {
		job, ok, err = w.c.Assets.FindJob(ctx, of, seen)
		if !fault.Is(err, fault.TokenAhead) || n == w.pace.shows || !lifecycle.Pause(ctx, w.pace.show) {
			return job, ok, err
		}
	}
}

// tell says what came of an image.
func (w *Worker) tell(ctx context.Context, job asset.Job, d asset.Developed, noted bool, how way) {
	of := []slog.Attr{
		slog.String("user_id", job.Asset.User.String()), slog.String("asset_id", job.Asset.ID.String()), slog.String("sha256", job.Content.SHA256.String()), slog.String("upload_region", job.Region),
		slog.String("way", string(how)),
	}
	switch reason := d.Picture.GetRefusal(); {
	case !noted:
		w.metrics.ended(ctx, how, needless)
	case reason != "":
		w.metrics.ended(ctx, how, refused)
		w.c.Log.LogAttrs(ctx, slog.LevelInfo, "image is refused for good", append(of, slog.String("reason", reason))...)
	default:
		w.metrics.ended(ctx, how, developed)
		w.c.Log.LogAttrs(ctx, slog.LevelDebug, "image has its variants", of...)
	}
}

// develop makes of content what can be made of it. Errors are those that may pass.
func (w *Worker) develop(ctx context.Context, job asset.Job) (asset.Developed, error) {
	content, err := w.c.Blobs.Open(ctx, job.Content)
	if err != nil {
		return asset.Developed{}, err
	}
	defer content.Close() //nolint:errcheck // it was only read
	if err := verify(content, job.Content); err != nil {
		return asset.Developed{}, err
	}
	picture, variants, err := w.make(ctx, content)
	if err != nil {
		return asset.Developed{}, err
	}
	d := asset.Developed{Picture: picture, Variants: map[string]*assetv1.AssetRecord_Variant{}}
	for _, v := range variants {
		if d.Variants[v.Name], err = w.put(ctx, v); err != nil {
			return asset.Developed{}, err
		}
	}
	return d, nil
}

// make is the picture with its variants, or with the reason why there are none.
func (w *Worker) make(ctx context.Context, content io.ReadSeeker) (*assetv1.AssetRecord_Picture, []media.Variant, error) {
	picture := &assetv1.AssetRecord_Picture{}
	info, err := media.Inspect(ctx, content)
	if err != nil {
		return picture, nil, refuse(picture, err)
	}
	picture.Width, picture.Height, picture.Frames = int32(info.Width), int32(info.Height), int32(info.Frames) //nolint:gosec // within the bounds of package media
	picture.CaptureTime = info.CaptureTime
	variants, err := w.c.Maker.Variants(ctx, content)
	if err != nil {
		return picture, nil, refuse(picture, err)
	}
	return picture, variants, nil
}

// refuse notes in a picture a fault of package media that is for ever, and returns any other.
func refuse(picture *assetv1.AssetRecord_Picture, err error) error {
	f := (*fault.Error)(nil)
	if !fault.Is(err, fault.Invalid, fault.TooLarge) || !errors.As(err, &f) {
		return err
	}
	reasons := []string{f.Message}
	for _, v := range f.Violations {
		reasons = append(reasons, v.Description)
	}
	picture.Refusal = strings.Join(reasons, ": ")
	return nil
}

// verify reads content once, if anything is to be made of so much. A region's own bucket does not: what is noted here, all regions believe.
func verify(content io.ReadSeeker, want blob.Ref) error {
	if want.Size > media.MaxBytes {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, content); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if blob.Sum(h.Sum(nil)) != want.SHA256 {
		return errDamaged
	}
	return nil
}

// errDamaged: the content is not what its name says.
var errDamaged = errors.New("what the region has under this name is damaged")

// put stores a variant.
func (w *Worker) put(ctx context.Context, v media.Variant) (*assetv1.AssetRecord_Variant, error) {
	ref, err := w.c.Blobs.Put(ctx, bytes.NewReader(v.Bytes), int64(len(v.Bytes)))
	if err != nil {
		return nil, fmt.Errorf("store the variant %s: %w", v.Name, err)
	}
	return &assetv1.AssetRecord_Variant{
		Content: &assetv1.AssetRecord_Content{Sha256: ref.SHA256[:], Size: ref.Size, ContentType: string(v.Type)},
		Width:   int32(v.Width), Height: int32(v.Height), //nolint:gosec // within the bounds of package media
	}, nil
}
