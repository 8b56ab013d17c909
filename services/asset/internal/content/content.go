// Package content moves the content of assets in and out, over plain HTTP.
//
// It decides nothing. Each handler first asks ContentService, within the process and on behalf of its caller, whether there is anything to move, and so goes through everything that all requests go through; then it streams between
// the connection and the region's bucket.
//
//	PUT      /v1/assets/{id}/content                              content in one request
//	GET HEAD /v1/assets/{id}/content                              content, or a variant, for whoever may see it with a token
//	GET HEAD /v1/signed/{owner_id}/{asset_id}/{variant}           the same for whoever has a signed URL; "original" is the content itself
//	GET HEAD /v1/public/{sha256}/{owner_id}/{asset_id}/{name}     what everybody may have, for ever
//	GET HEAD /v1/blobs/{sha256}                                   a blob, for the service itself in other regions
//	         /v1/uploads/, /v1/uploads/{id}                       content in pieces: tus 1.0, with creation, creation-with-upload, expiration and termination
//
// # Guarantees
//
// An asset gets its content whole or not at all. What a client announces (length, digest) is kept or nothing is stored. What bytes are, they say themselves, never a header. What is not an image of a known type is always a
// download, and nothing that is sent can run in a browser.
//
// A PUT that is repeated, whole, is answered as the first one was. An asset never gets other content.
//
// A request takes 256 KiB of memory, whatever its content. A sender that gives nothing for 30 s is cut off, and so is a reader that takes nothing for as long; how long they take in all is not limited. Of an upload in pieces
// that is cut off all stays that has come, for 24 hours after its last byte.
//
// All instances of a region take the pieces of one upload, one at a time; a later request for it makes an earlier one end. An upload that has all its bytes and whose asset has not got them, because a process died in between,
// is completed by the next HEAD or PATCH.
//
// # Refused
//
// What would be ignored is refused with a reason: coded or partial contents in a PUT, conditions of writes, parameters that there are not, digests with other algorithms alone, concatenation, deferred lengths and checksums of tus.
//
// # Not covered
//
// An upload in pieces belongs to its region; another one does not know it (404), and a client begins anew there. Pieces are not synced: after a power cut an upload may have fewer bytes than its client was told, or other ones; a client
// that cares sends a digest of all. A piece that is damaged on the way is not noticed, beyond what TCP does.
package content

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
	"antipode.example/platform/rpc"
)

// patience is how long a client may give or take nothing.
const patience = 30 * time.Second

// Config is what Handlers need. All is required but Reserve and Patience.
type Config struct {
	Bucket *blob.Bucket
	// Puller reads what the bucket lacks from other regions.
	Puller *blob.Puller
	// Uploads is the directory of what has come of uploads in pieces, which all instances of the region share. It is made when it is missing.
	Uploads string
	// Reserve is what uploads in pieces leave free on the disk of Uploads, in bytes; see blob.Room.
	Reserve int64
	// MaxUpload is what tus clients are told to be the most; what is refused, ContentService decides.
	MaxUpload int64
	// Patience is how long a client may give or take nothing; 0 means 30 s.
	Patience time.Duration
	Log      *slog.Logger
}

// Plain is where handlers are registered; *gateway.Plain is one.
type Plain interface {
	// Handle registers what answers a pattern of http.ServeMux. An error that it returns before it has written anything is answered as a problem document.
	Handle(pattern string, f func(http.ResponseWriter, *http.Request) error)
	// Conn calls RPCs on behalf of the request whose context they get.
	Conn() grpc.ClientConnInterface
}

// Handlers are the handlers of one process. They are safe for concurrent use.
type Handlers struct {
	cfg     Config
	service assetv1.ContentServiceClient
	tus     *tus
}

// New makes the handlers.
func New(cfg Config) (*Handlers, error) {
	if cfg.Bucket == nil || cfg.Puller == nil || cfg.Uploads == "" || cfg.MaxUpload <= 0 || cfg.Log == nil {
		return nil, errors.New("moving content needs all but a reserve and a patience")
	}
	if cfg.Patience <= 0 {
		cfg.Patience = patience
	}
	if err := os.MkdirAll(cfg.Uploads, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of uploads: %w", err)
	}
	h := &Handlers{cfg: cfg}
	var err error
	h.tus, err = newTus(cfg, h)
	return h, err
}

// Register adds the handlers. It is called once, before any request.
func (h *Handlers) Register(p Plain) {
	h.service = assetv1.NewContentServiceClient(p.Conn())
	p.Handle("PUT /v1/assets/{id}/content", h.put)
	p.Handle("GET /v1/assets/{id}/content", h.get)
	p.Handle("GET /v1/signed/{owner_id}/{asset_id}/{variant}", h.getSigned)
	p.Handle("GET /v1/public/{sha256}/{owner_id}/{asset_id}/{name}", h.getPublic)
	p.Handle("GET "+blob.Path, h.getBlob)
	h.tus.register(p)
}

// complete gives an asset what is in the bucket by now.
func (h *Handlers) complete(ctx context.Context, id, owner string, ref blob.Ref, contentType string) (*assetv1.Asset, error) {
	return h.service.CompleteUpload(ctx, &assetv1.CompleteUploadRequest{Id: id, OwnerId: owner, Sha256: ref.SHA256[:], Size: ref.Size, ContentType: contentType})
}

// invalid is the fault of a request with something wrong in a field.
func invalid(field, format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "the request is not valid").With(field, format, args...)
}

// query reads the parameters of a request, each of which may stand there once. The owner may be called as in JSON.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the query is not valid").Because(err)
	}
	if owner, there := values["ownerId"]; there { // as REST takes it
		values["owner_id"] = append(values["owner_id"], owner...)
		delete(values, "ownerId")
	}
	for name, v := range values {
		if !slices.Contains(known, name) {
			return nil, invalid(name, "there is no such parameter")
		}
		if len(v) != 1 {
			return nil, invalid(name, "must be given once")
		}
	}
	return values, nil
}

// unconditional refuses conditions, which nothing here heeds in a write, and must not look as if they were.
func unconditional(h http.Header) error {
	for _, name := range []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"} {
		if h.Get(name) != "" {
			return invalid(name, "an upload takes no conditions: an asset gets its content once")
		}
	}
	return nil
}

// plain refuses content that is coded: its hash would be another one than that of what is stored.
func plain(h http.Header) error {
	if coding := h.Get("Content-Encoding"); coding != "" && coding != "identity" {
		return invalid("Content-Encoding", "content must come as it is, not as %q", coding)
	}
	return nil
}

// refuse answers with a fault under a status that is not its kind's own.
func refuse(w http.ResponseWriter, r *http.Request, f *fault.Error, status int) error {
	_ = f.WriteProblem(w, r.Header.Get(rpc.HeaderRequestID), status) // the caller went away
	return nil
}
