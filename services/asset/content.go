package asset

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/services/asset/internal/media"
	"antipode.example/services/asset/internal/signedurl"
)

// Where content is served that needs no token.
const (
	publicPath = "/v1/public/"
	signedPath = "/v1/signed/"
	// original is what a signed URL calls the content itself, among the names of variants. No variant is called so.
	original = "original"
)

// PublicPath is where everybody may fetch content of a public asset. It has the content's hash, so that it never leads to other bytes, and ends with the name of a file.
func PublicPath(ref copies.Ref, name string, c *assetv1.AssetRecord_Content) string {
	return publicPath + hex.EncodeToString(c.GetSha256()) + "/" + ref.User.String() + "/" + ref.ID.String() + "/" + url.PathEscape(media.FileName(name, media.Type(c.GetContentType())))
}

// Download is content of an asset that somebody asked for. Without Content there is none that he may have.
type Download struct {
	Sight
	Content *assetv1.AssetRecord_Content
	// FileName is what it is called, by the owner or the signed URL; it may be anything.
	FileName string
}

// Content answers the content of an asset that a viewer sees, or one of its variants, by name. Errors: as Get.
func (s *Service) Content(ctx context.Context, ref copies.Ref, variant string, v Viewer, seen copies.SeenFunc) (Download, error) {
	sight, err := s.Get(ctx, ref, v, seen)
	if err != nil || !sight.Found {
		return Download{Sight: sight}, err
	}
	return download(sight, variant)
}

// download is what an asset has under the name of a variant.
func download(sight Sight, variant string) (Download, error) {
	d := Download{Sight: sight, FileName: sight.Record.GetName()}
	var err error
	if variant == "" {
		d.Content, err = Content(sight.Record)
		return d, err
	}
	all, err := Variants(sight.Record)
	d.Content = all[variant].GetContent()
	return d, err
}

// PublicContent answers the content, or the variant, with this hash of a public asset. Errors: as Get.
func (s *Service) PublicContent(ctx context.Context, ref copies.Ref, sum blob.Sum, seen copies.Seen) (Download, error) {
	c, err := s.get(ctx, ref, seen)
	if err != nil || !c.Found || !Public(c.Record) {
		return Download{Sight: Sight{Copy: c}}, err
	}
	d, err := download(Sight{Copy: c}, "")
	if err != nil || bytes.Equal(d.Content.GetSha256(), sum[:]) {
		return d, err
	}
	d.Content = nil
	all, err := Variants(c.Record)
	for _, v := range all {
		if bytes.Equal(v.GetContent().GetSha256(), sum[:]) {
			d.Content = v.GetContent()
		}
	}
	return d, err
}

// Signing is a request for an address at which anybody may fetch content for a while.
type Signing struct {
	copies.Ref
	// Variant is the name of one; empty for the content itself.
	Variant string
	// FileName is what the download is called; empty for the asset's name.
	FileName string
	// Lifetime is in whole seconds.
	Lifetime time.Duration
}

// Sign makes such an address: path and query, and when it expires. It is empty when there is no such content that the viewer may have. Errors: invalid; forbidden, for an asset that is public and not the viewer's, because the address
// would outlive that; those of Get.
func (s *Service) Sign(ctx context.Context, g Signing, v Viewer, seen copies.SeenFunc) (d Download, address string, expires time.Time, err error) {
	d, err = s.Content(ctx, g.Ref, g.Variant, v, seen)
	if err != nil || d.Content == nil {
		return d, "", time.Time{}, err
	}
	if Public(d.Record) && !v.all(g.User) {
		if err := s.bought(ctx, g.Ref, v, seen(v.User)); err != nil {
			return d, "", time.Time{}, err
		}
	}
	variant := g.Variant
	if variant == "" {
		variant = original
	}
	now := s.c.Clock.Now()
	expires = now.Add(g.Lifetime).Truncate(time.Second)
	address, err = s.c.Signed.Sign(signedurl.Grant{
		Method: signedurl.Reading, Path: signedPath + g.User.String() + "/" + g.ID.String() + "/" + variant, Expires: now.Add(g.Lifetime), FileName: g.FileName,
	}, now)
	return d, address, expires, err
}

// bought refuses who sees a public asset and has not bought it. Errors: forbidden; those of Get.
func (s *Service) bought(ctx context.Context, ref copies.Ref, v Viewer, seen copies.Seen) error {
	ledger, err := s.ledgers.OfUser(ctx, v.User, seen)
	if err != nil {
		return err
	}
	for _, e := range ledger.Copies {
		if buys(e.Record, ref) {
			return nil
		}
	}
	return fault.New(fault.Forbidden, "the asset is public: its owner, and who bought it, can make signed URLs of it")
}

// SignedContent answers the content that a signed address names. Errors: forbidden, when it was not made here for this method, or has expired; those of Get.
func (s *Service) SignedContent(ctx context.Context, method, address string, seen copies.SeenFunc) (Download, error) {
	u, err := url.ParseRequestURI(address)
	if err != nil {
		return Download{}, notSigned(err)
	}
	g, err := s.c.Signed.Verify(method, u, s.c.Clock.Now())
	if err != nil {
		return Download{}, err
	}
	ref, variant, err := readSigned(g.Path)
	if err != nil {
		return Download{}, notSigned(err)
	}
	c, err := s.get(ctx, ref, seen(ref.User))
	if err != nil || !c.Found {
		return Download{Sight: Sight{Copy: c}}, err
	}
	d, err := download(Sight{Copy: c}, variant)
	if g.FileName != "" {
		d.FileName = g.FileName
	}
	return d, err
}

func notSigned(why error) *fault.Error {
	return fault.New(fault.Forbidden, "the address is not a signed URL that was made here").Because(why)
}

// readSigned is what the path of a signed URL names.
func readSigned(path string) (ref copies.Ref, variant string, err error) {
	rest, ok := strings.CutPrefix(path, signedPath)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return copies.Ref{}, "", errors.New("the path is not that of an asset")
	}
	var err1, err2 error
	ref.User, err1 = id.Parse(parts[0])
	ref.ID, err2 = id.Parse(parts[1])
	if variant = parts[2]; variant == original {
		variant = ""
	}
	return ref, variant, errors.Join(err1, err2)
}
