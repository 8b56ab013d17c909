package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/e2e/await"
	"antipode.example/e2e/bounds"
	"antipode.example/regions/lab"
)

// photo is a JPEG that nobody else has.
func photo(t *testing.T, width, height int) []byte {
	t.Helper()
	var tint [3]byte
	rand.Read(tint[:])
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.SetRGBA(x, y, color.RGBA{tint[0] ^ byte(x), tint[1] ^ byte(y), tint[2], 255})
		}
	}
	var b bytes.Buffer
	must(t, jpeg.Encode(&b, img, nil))
	return b.Bytes()
}

// sumOf is the name of content.
func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// create makes an asset of the fields, which are JSON. A region may say for a while that it does not know enough.
func (s *signedIn) createAsset(ctx context.Context, at *lab.Region, fields string) (*assetv1.Asset, error) {
	return s.ask(ctx, at, http.MethodPost, "/v1/assets", fields, "idempotency-key", rand.Text())
}

// upload sends the content of an asset of the user's own.
func (s *signedIn) upload(ctx context.Context, at *lab.Region, id string, content []byte, headers ...string) (*assetv1.Asset, error) {
	return s.ask(ctx, at, http.MethodPut, "/v1/assets/"+id+"/content", string(content), headers...)
}

// ask makes a request that answers an asset, and again while the region has not heard enough.
func (s *signedIn) ask(ctx context.Context, at *lab.Region, method, path, body string, headers ...string) (*assetv1.Asset, error) {
	shown := &assetv1.Asset{}
	var refused error
	err := await.For(ctx, method+" "+path+" in "+at.Topology.Name, patience, func(ctx context.Context) error {
		a, err := s.try(ctx, at, method, path, body, headers...)
		if err != nil {
			return err
		}
		if err = a.read(shown); err != nil && !passing(a) {
			refused, err = fmt.Errorf("%s %s in %s: %w", method, path, at.Topology.Name, err), nil
		}
		return err
	})
	return shown, errors.Join(err, refused)
}

// publish makes an asset with content.
func (s *signedIn) publish(t *testing.T, at *lab.Region, fields string, content []byte, headers ...string) *assetv1.Asset {
	t.Helper()
	made, err := s.createAsset(t.Context(), at, fields)
	must(t, err)
	ready, err := s.upload(t.Context(), at, made.GetId(), content, headers...)
	must(t, err)
	if ready.GetState() != assetv1.Asset_STATE_READY || ready.GetSha256() != sumOf(content) || ready.GetSize() != int64(len(content)) || ready.GetId() != made.GetId() {
		t.Fatalf("the content is %d bytes with the sum %s, and the asset is %v", len(content), sumOf(content), ready)
	}
	return ready
}

// shown waits until a region shows the asset as it should be.
func (c *client) shown(ctx context.Context, at *lab.Region, of *assetv1.Asset, as func(*assetv1.Asset) error) (*assetv1.Asset, error) {
	shown := &assetv1.Asset{}
	err := await.For(ctx, "asset "+of.GetId()+" in "+at.Topology.Name, patience, func(ctx context.Context) error {
		a, err := c.try(ctx, at, http.MethodGet, "/v1/assets/"+of.GetId()+"?ownerId="+of.GetOwnerId(), "")
		if err == nil {
			err = a.read(shown)
		}
		if err != nil {
			return err
		}
		return as(shown)
	})
	return shown, err
}

// developed: a worker has looked into it.
func developed(a *assetv1.Asset) error {
	if variant(a, "thumb") == nil {
		return fmt.Errorf("it has no thumbnail: %v", a)
	}
	return nil
}

// ready: it has content.
func ready(a *assetv1.Asset) error {
	if a.GetState() != assetv1.Asset_STATE_READY {
		return fmt.Errorf("it is %v", a)
	}
	return nil
}

func variant(a *assetv1.Asset, name string) *assetv1.Variant {
	for _, v := range a.GetVariants() {
		if v.GetName() == name {
			return v
		}
	}
	return nil
}

// contentPath is where the content of an asset, or of one of its variants, is for those who have a token.
func contentPath(a *assetv1.Asset, variant string) string {
	return "/v1/assets/" + a.GetId() + "/content?owner_id=" + a.GetOwnerId() + "&variant=" + variant
}

// fetched wants the content at a path. A region may not have the record yet, nor the content.
func (c *client) fetched(ctx context.Context, at *lab.Region, path string) (answer, error) {
	var got answer
	err := await.For(ctx, path+" in "+at.Topology.Name, patience, func(ctx context.Context) (err error) {
		if got, err = c.try(ctx, at, http.MethodGet, path, ""); err == nil && got.Status != http.StatusOK {
			err = fmt.Errorf("%d %s", got.Status, got.Body)
		}
		return err
	})
	return got, err
}

// thumbnail wants content that is an image of 256 pixels at its longest side.
func (a answer) thumbnail() error {
	conf, kind, err := image.DecodeConfig(bytes.NewReader(a.Body))
	if err != nil || kind != "jpeg" || max(conf.Width, conf.Height) != 256 {
		return fmt.Errorf("the thumbnail is a %s of %d × %d pixels (%w): %s", kind, conf.Width, conf.Height, err, a.Header)
	}
	if kind := a.Header.Get("Content-Type"); kind != "image/jpeg" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
		return fmt.Errorf("the thumbnail comes as %s: %s", kind, a.Header)
	}
	return nil
}

// album is a user's photo, and all ways to its thumbnail.
type album struct {
	*signedIn
	photo   *assetv1.Asset
	content []byte
}

// photograph uploads a photo in a region.
func (s *signedIn) photograph(t *testing.T, at *lab.Region) *album {
	t.Helper()
	a := &album{signedIn: s, content: photo(t, 2000, 1500)}
	a.photo = s.publish(t, at, object("name", "beach.jpg"), a.content)
	return a
}

// thumbnailsIn fetches the thumbnail in a region by token, by a signed URL, and, made public, by its public path. Afterwards the photo is public.
func (a *album) thumbnailsIn(t *testing.T, at *lab.Region) {
	t.Helper()
	ctx, nobody := t.Context(), &client{nobody: true}
	_, err := a.shown(ctx, at, a.photo, developed)
	must(t, err)
	byToken, err := a.fetched(ctx, at, contentPath(a.photo, "thumb"))
	must(t, errors.Join(err, byToken.thumbnail()))

	signed := &assetv1.SignedUrl{}
	must(t, a.rest(t, http.StatusOK, at, http.MethodPost, "/v1/assets/"+a.photo.GetId()+":createSignedUrl", object("variant", "thumb")).read(signed))
	bySignature, err := nobody.fetched(ctx, at, signed.GetPath())
	must(t, errors.Join(err, bySignature.thumbnail()))

	if got := nobody.rest(t, http.StatusUnauthorized, at, http.MethodGet, contentPath(a.photo, "thumb"), ""); len(got.Body) > 1000 {
		t.Errorf("without a token %d bytes come", len(got.Body))
	}
	public, err := a.ask(ctx, at, http.MethodPatch, "/v1/assets/"+a.photo.GetId(), object("visibility", "VISIBILITY_PUBLIC"))
	must(t, err)
	byPath, err := nobody.fetched(ctx, at, variant(public, "thumb").GetPublicPath())
	must(t, errors.Join(err, byPath.thumbnail()))
	if !bytes.Equal(byToken.Body, bySignature.Body) || !bytes.Equal(byToken.Body, byPath.Body) {
		t.Errorf("the thumbnail in %s has %d bytes by token, %d by signature, and %d by its public path", at.Topology.Name, len(byToken.Body), len(bySignature.Body), len(byPath.Body))
	}
	if cached := byPath.Header.Get("Cache-Control"); !strings.Contains(cached, "public") || !strings.Contains(cached, "immutable") {
		t.Errorf("a public thumbnail may be cached: %q", cached)
	}
	a.photo = public
}

// whole wants regions to give the photo as it was uploaded.
func (a *album) whole(ctx context.Context, regions ...*lab.Region) error {
	for _, at := range regions {
		got, err := a.fetched(ctx, at, contentPath(a.photo, ""))
		if err != nil {
			return err
		}
		if !bytes.Equal(got.Body, a.content) {
			return fmt.Errorf("%s gives %d bytes, which are not the %d of the photo", at.Topology.Name, len(got.Body), len(a.content))
		}
	}
	return nil
}

// blobs are the names of what is in a region's bucket.
func blobs(at *lab.Region) (map[string]bool, error) {
	found := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(assetDir(at), "blobs"), func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed while this looked
		}
		if err == nil && e.Type().IsRegular() && len(e.Name()) == sha256.Size*2 {
			found[e.Name()] = true
		}
		return err
	})
	return found, err
}

// assetDir is what the asset service's processes share in a region.
func assetDir(at *lab.Region) string {
	return filepath.Join(world.Dir(), "regions", at.Topology.Name, "asset")
}

// sums are the names of all that an asset consists of.
func sums(a *assetv1.Asset) []string {
	all := []string{a.GetSha256()}
	for _, v := range a.GetVariants() {
		for part := range strings.SplitSeq(v.GetPublicPath(), "/") {
			if len(part) == sha256.Size*2 {
				all = append(all, part)
			}
		}
	}
	return all
}

// garbagePatience is how long a test waits for blobs that nobody names to be removed: the lab keeps them for a minute.
const garbagePatience = 5 * time.Minute

// TestADeletedUsersAssetsAreGone: with a user go the assets, in every region, and soon also every byte of their contents. What others have stays. Those bytes are waited for in full only.
func TestADeletedUsersAssetsAreGone(t *testing.T) {
	whole(t)
	ctx, south := t.Context(), region(t, "ap-south")
	leaves, stays := signedInAt(t, south, join(t, south)), signedInAt(t, south, join(t, south))
	gone, kept := leaves.photograph(t, south), stays.photograph(t, south)
	gone.thumbnailsIn(t, south)
	kept.thumbnailsIn(t, south)
	for _, r := range world.Regions() {
		for _, a := range []*album{gone, kept} {
			shown, err := a.shown(ctx, r, a.photo, developed)
			must(t, errors.Join(err, a.whole(ctx, r)))
			if len(sums(shown)) != 4 {
				t.Fatalf("the photo consists of %v", sums(shown))
			}
			eventually(t, "the blobs are in "+r.Topology.Name, func(context.Context) error { return holds(r, sums(shown), true) })
		}
	}
	leaves.rest(t, http.StatusOK, south, http.MethodDelete, "/v1/users/"+leaves.user, "")
	for _, r := range world.Regions() {
		eventually(t, "the asset is gone in "+r.Topology.Name, func(ctx context.Context) error {
			for path, c := range map[string]*client{
				"/v1/assets/" + gone.photo.GetId() + "?ownerId=" + leaves.user: {}, contentPath(gone.photo, "thumb"): {}, gone.photo.GetPublicPath(): {nobody: true},
			} {
				if a, err := c.try(ctx, r, http.MethodGet, path, ""); err != nil || a.Status != http.StatusNotFound {
					return fmt.Errorf("%s: %d %s (%w)", path, a.Status, a.Body, err)
				}
			}
			return nil
		})
		if !bounds.Accept() {
			continue
		}
		await.Until(t, "the blobs are gone in "+r.Topology.Name, garbagePatience, func(context.Context) error { return holds(r, sums(gone.photo), false) })
		must(t, holds(r, sums(kept.photo), true))
	}
	for _, r := range world.Regions() {
		must(t, kept.whole(ctx, r))
	}
}

// holds wants a region's bucket to have blobs, or none of them.
func holds(at *lab.Region, sums []string, want bool) error {
	has, err := blobs(at)
	for _, sum := range sums {
		if err == nil && has[sum] != want {
			err = fmt.Errorf("of %v, %s has %s: %t", sums, at.Topology.Name, sum, has[sum])
		}
	}
	return err
}
