package content

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protojson"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

// put takes the content of an asset in one request, and answers the asset.
func (h *Handlers) put(w http.ResponseWriter, r *http.Request) error {
	asset, err := h.receive(w, r)
	c := connectionOf(w, h.cfg.Patience)
	c.writing()
	if err != nil {
		return err
	}
	answer, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(asset)
	if err != nil {
		return fault.New(fault.Internal, "internal error").Because(err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the caller went away
	return nil
}

// receive has the content in the bucket and in the asset when it returns one.
func (h *Handlers) receive(w http.ResponseWriter, r *http.Request) (*assetv1.Asset, error) {
	c := connectionOf(w, h.cfg.Patience)
	want, begun, err := h.admit(r)
	content := &body{Reader: r.Body, connection: c}
	if fault.Is(err, fault.AlreadyExists) {
		asset, again := h.repeated(r, verify(content, want))
		c.received()
		if again {
			return asset, nil
		}
	}
	if err != nil {
		c.abandon(w, r, content.failed)
		return nil, err
	}
	first := &head{Reader: content}
	ref, err := h.cfg.Bucket.Put(r.Context(), verify(first, want), begun.GetMaxBytes())
	c.received()
	if err != nil {
		c.abandon(w, r, content.failed)
		return nil, err
	}
	return h.complete(r.Context(), begun.GetId(), begun.GetOwnerId(), ref, first.contentType())
}

// repeated answers a request that the asset has heeded already, as clients repeat one whose answer they did not get: its content is that of the asset, all of it. Nothing is stored.
func (h *Handlers) repeated(r *http.Request, content io.Reader) (*assetv1.Asset, bool) {
	q, err := query(r, "owner_id")
	if err != nil {
		return nil, false
	}
	id, owner := r.PathValue("id"), q.Get("owner_id")
	c, err := h.service.GetContent(r.Context(), &assetv1.GetContentRequest{Id: id, OwnerId: owner})
	if err != nil || r.ContentLength >= 0 && r.ContentLength != c.GetSize() {
		return nil, false
	}
	hash := sha256.New()
	n, err := io.Copy(hash, io.LimitReader(content, c.GetSize()+1))
	if err != nil || n != c.GetSize() || !bytes.Equal(hash.Sum(nil), c.GetSha256()) {
		return nil, false
	}
	ref, err := blob.RefOf(c.GetSha256(), c.GetSize())
	if err != nil {
		return nil, false
	}
	asset, err := h.complete(r.Context(), id, owner, ref, c.GetContentType())
	return asset, err == nil
}

// admit says whether the content in a request may come, before any of it is read.
func (h *Handlers) admit(r *http.Request) (want *blob.Sum, begun *assetv1.BeginUploadResponse, err error) {
	want, owner, err := checkPut(r)
	if err != nil {
		return nil, nil, err
	}
	begun, err = h.service.BeginUpload(r.Context(), &assetv1.BeginUploadRequest{Id: r.PathValue("id"), OwnerId: owner, Size: r.ContentLength})
	if err == nil && r.ContentLength > begun.GetMaxBytes() {
		err = tooLarge(begun.GetMaxBytes())
	}
	return want, begun, err
}

// checkPut refuses what can be refused by the headers alone.
func checkPut(r *http.Request) (want *blob.Sum, owner string, err error) {
	q, err := query(r, "owner_id")
	if err == nil && r.Header.Get("Content-Range") != "" {
		err = invalid("Content-Range", "content comes whole; in pieces at /v1/uploads/")
	}
	if err := errors.Join(err, plain(r.Header), unconditional(r.Header)); err != nil {
		return nil, "", err
	}
	want, err = announced(r.Header)
	return want, q.Get("owner_id"), err
}

func tooLarge(limit int64) *fault.Error {
	return fault.New(fault.TooLarge, "the content has more than %d bytes", limit)
}
