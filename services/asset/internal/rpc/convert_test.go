package rpc

import (
	"crypto/sha256"
	"testing"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/services/asset"
)

// Of an image that no worker can read everybody who sees the asset learns why.
func TestVariantsRefusal(t *testing.T) {
	t.Parallel()
	sum := sha256.Sum256([]byte("no image"))
	rec := &assetv1.AssetRecord{State: assetv1.AssetRecord_STATE_UPLOADING}
	if err := asset.Complete(rec, &assetv1.AssetRecord_Content{Sha256: sum[:], Size: 8, ContentType: "image/png"}, time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"", "it is damaged"} {
		if err := asset.Develop(rec, sum[:], &assetv1.AssetRecord_Picture{Refusal: why}, nil); err != nil {
			t.Fatal(err)
		}
		m, err := message(asset.Copy{Found: true, Record: rec}, asset.Viewer{})
		if err != nil || m.GetVariantsRefusal() != why {
			t.Errorf("%q is told as %q, %v", why, m.GetVariantsRefusal(), err)
		}
	}
}
