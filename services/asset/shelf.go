package asset

import (
	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/fault"
)

// Usage is what assets take up, or may.
type Usage struct {
	// Bytes of all contents, each asset's by itself.
	Bytes int64
	// Assets, those that are still uploading included.
	Assets int64
}

// Takes is what one asset takes up: itself, and its content once it is there.
func Takes(rec *assetv1.AssetRecord) (Usage, error) {
	c, err := Content(rec)
	return Usage{Bytes: c.GetSize(), Assets: 1}, err
}

// Used is what a user's assets take up, as far as this region knows.
func Used(shelf *assetv1.ShelfRecord) Usage {
	return Usage{max(0, shelf.GetBytes()), max(0, shelf.GetAssets())}
}

// Charge notes that a user's assets take up more by this; by less, if it is negative.
func Charge(shelf *assetv1.ShelfRecord, more Usage) {
	shelf.Bytes += more.Bytes
	shelf.Assets += more.Assets
}

// Correct notes what a user's assets take up in truth. A region that creates, completes or deletes an asset counts that without asking whether another one that it cannot see has just done the same, as it happens with retries: then
// it counts twice. Of all regions that agree on a user's records one should correct, not several at once, which would correct twice.
func Correct(shelf *assetv1.ShelfRecord, truth Usage) {
	shelf.Bytes, shelf.Assets = truth.Bytes, truth.Assets
}

// Admit lets a user take up more, if that fits. Errors: too_large.
//
// It asks no other region, so usage can exceed the quota. Where regions hear of each other, it does by what they admit in the same moment: at most what is admitted in another region within the delay between them. Where
// they do not, each of R regions may fill what it knows to be free: by at most R-1 times what was free when they last agreed, so at most R-1 quotas. What was admitted stays; nothing more is admitted until enough was deleted.
func (q Usage) Admit(used, more Usage) error {
	switch {
	case more.Assets > 0 && more.Assets > q.Assets-used.Assets:
		return fault.New(fault.TooLarge, "the user has %d assets, of at most %d", used.Assets, q.Assets)
	case more.Bytes > 0 && more.Bytes > q.Bytes-used.Bytes:
		return fault.New(fault.TooLarge, "%d bytes more do not fit: the user's assets take up %d bytes, of at most %d", more.Bytes, used.Bytes, q.Bytes)
	}
	return nil
}
