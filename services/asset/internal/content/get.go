package content

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
	"antipode.example/services/asset/internal/signedurl"
)

// get answers the content of an asset to whoever may see it.
func (h *Handlers) get(w http.ResponseWriter, r *http.Request) error {
	if signedurl.Signed(r.URL) {
		return h.getSigned(w, r)
	}
	q, err := query(r, "owner_id", "variant")
	if err != nil {
		return err
	}
	c, err := h.service.GetContent(r.Context(), &assetv1.GetContentRequest{Id: r.PathValue("id"), OwnerId: q.Get("owner_id"), Variant: q.Get("variant")})
	return h.send(w, r, c, err)
}

// getSigned answers what a signed URL is good for.
func (h *Handlers) getSigned(w http.ResponseWriter, r *http.Request) error {
	c, err := h.service.GetSignedContent(r.Context(), &assetv1.GetSignedContentRequest{Method: r.Method, Url: r.URL.RequestURI()})
	return h.send(w, r, c, err)
}

// getPublic answers what everybody may have. An address with a query would be another one to caches in between, as often as anybody likes.
func (h *Handlers) getPublic(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	c, err := h.service.GetPublicContent(r.Context(), &assetv1.GetPublicContentRequest{Sha256: r.PathValue("sha256"), OwnerId: r.PathValue("owner_id"), AssetId: r.PathValue("asset_id")})
	return h.send(w, r, c, err)
}

// getBlob gives a blob to another region.
func (h *Handlers) getBlob(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if _, err := h.service.GetBlob(r.Context(), &assetv1.GetBlobRequest{Sha256: r.PathValue("sha256")}); err != nil {
		return err
	}
	h.cfg.Bucket.Handler().ServeHTTP(w, r)
	return nil
}

// send sends content, if ContentService has not said why not.
func (h *Handlers) send(w http.ResponseWriter, r *http.Request, c *assetv1.Content, err error) error {
	if err != nil {
		return err
	}
	ref, err := blob.RefOf(c.GetSha256(), c.GetSize())
	if err != nil {
		return fault.New(fault.Internal, "internal error").Because(err)
	}
	content, err := h.cfg.Puller.ReadThrough(r.Context(), ref)
	switch {
	case errors.Is(err, blob.ErrNotFound):
		// The record says that it exists, so it is on its way, or where this region does not reach.
		return fault.New(fault.Unavailable, "the content is not here yet, and cannot be had from where it is").Because(err).After(5 * time.Second)
	case err != nil:
		return err
	}
	defer func() { _ = content.Close() }()
	announce(w.Header(), c, ref)
	limitRanges(r)
	out := &reader{ResponseWriter: w, connection: connectionOf(w, h.cfg.Patience)}
	// An error on the way leaves the answer shorter than it said it would be, which its reader notices.
	http.ServeContent(out, r, "", time.Time{}, content)
	return out.refuse(w, r, ref)
}

// announce says what content is.
func announce(h http.Header, c *assetv1.Content, ref blob.Ref) {
	media.Download{Type: media.Type(c.GetContentType()), Name: c.GetFileName(), Public: c.GetPublic()}.Headers(h)
	h.Set("Etag", `"`+ref.SHA256.String()+`"`)
	if !c.GetPublic() {
		return
	}
	h.Set("Surrogate-Key", asset.AssetTag(c.GetAssetId())+" "+asset.UserTag(c.GetOwnerId()))
	for _, name := range []string{rpc.HeaderToken, rpc.HeaderStale, rpc.HeaderLost} { // what one caller has seen is not for all who get the answer from a cache
		h.Del(name)
	}
}

// maxRanges is how many ranges one request may ask for; who asks for more gets all.
const maxRanges = 16

func limitRanges(r *http.Request) {
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r.Header.Del("Range")
	}
}

// reader is a client that gets content. It is cut off when it takes nothing for a while. What http.ServeContent refuses it keeps back, to be answered as a problem document.
type reader struct {
	http.ResponseWriter
	connection
	refused int // status
}

// WriteHeader implements http.ResponseWriter.
func (r *reader) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		r.refused = status
		return
	}
	r.writing()
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *reader) Write(p []byte) (int, error) {
	if r.refused != 0 {
		return len(p), nil
	}
	r.writing()
	return r.ResponseWriter.Write(p)
}

// refuse answers what http.ServeContent has refused, if it has.
func (r *reader) refuse(w http.ResponseWriter, request *http.Request, ref blob.Ref) error {
	if r.refused == 0 {
		return nil
	}
	for _, name := range []string{"Content-Disposition", "Surrogate-Key", "Accept-Ranges", "Etag"} {
		w.Header().Del(name)
	}
	r.writing()
	switch r.refused {
	case http.StatusRequestedRangeNotSatisfiable:
		return refuse(w, request, invalid("Range", "the content has %d bytes", ref.Size), r.refused)
	case http.StatusPreconditionFailed:
		return fault.New(fault.EtagMismatch, "the content is not what the request's condition names")
	default:
		return fault.New(fault.Internal, "internal error").Because(fmt.Errorf("serving content ended with status %d", r.refused))
	}
}
