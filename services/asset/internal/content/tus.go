package content

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tus/tusd/v2/pkg/handler"
	expslog "golang.org/x/exp/slog"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
)

const (
	uploadsPath = "/v1/uploads/"
	tusVersion  = "1.0.0"
	tusBody     = "application/offset+octet-stream"
	extensions  = "creation,creation-with-upload,expiration,termination"
	// lockTime is for how long a request waits for another one that has the same upload.
	lockTime = 20 * time.Second
	// expiry is for how long an upload is kept after its last byte.
	expiry = 24 * time.Hour
	// maxUnfinished is how many unfinished uploads one user may have in a region. What they announce takes no quota until they are complete, but must fit into it together.
	maxUnfinished = 32
)

// tus is tus 1.0 (https://tus.io/protocols/resumable-upload). The handler of tusd moves the pieces; around it is what it does not do: who may, precise refusals, expiration, and giving the content to the asset. It never sees a request
// that was not allowed.
type tus struct {
	cfg    Config
	h      *Handlers
	pieces *handler.UnroutedHandler
	drafts drafts
}

func newTus(cfg Config, h *Handlers) (*tus, error) {
	t := &tus{cfg: cfg, h: h, drafts: drafts{dir: cfg.Uploads, room: blob.Room{Directory: cfg.Uploads, Reserve: cfg.Reserve}}}
	composer := handler.NewStoreComposer()
	composer.UseCore(t.drafts.store())
	composer.UseLocker(t.drafts)
	var err error
	t.pieces, err = handler.NewUnroutedHandler(handler.Config{
		StoreComposer: composer, BasePath: uploadsPath, Cors: &handler.CorsConfig{Disable: true},
		Logger:             expslog.New(silent{}),
		AcquireLockTimeout: lockTime, NetworkTimeout: cfg.Patience,
		// Nothing here goes on after its request: files are written without looking at a context.
		GracefulRequestCompletionTimeout: time.Millisecond,
		PreUploadCreateCallback: func(e handler.HookEvent) (handler.HTTPResponse, handler.FileInfoChanges, error) {
			id, ok := e.Context.Value(newUpload{}).(string)
			if !ok {
				return handler.HTTPResponse{}, handler.FileInfoChanges{}, errors.New("an upload was made that nobody allowed")
			}
			return handler.HTTPResponse{}, handler.FileInfoChanges{ID: id}, nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the handler of uploads in pieces: %w", err)
	}
	return t, nil
}

// newUpload is the key of the id that an upload is to have.
type newUpload struct{}

func (t *tus) register(p Plain) {
	p.Handle("OPTIONS "+uploadsPath+"{$}", t.options)
	p.Handle("OPTIONS "+uploadsPath+"{upload}", t.options)
	p.Handle("POST "+uploadsPath+"{$}", t.guard(t.create))
	p.Handle("HEAD "+uploadsPath+"{upload}", t.guard(t.head))
	p.Handle("PATCH "+uploadsPath+"{upload}", t.guard(t.patch))
	p.Handle("DELETE "+uploadsPath+"{upload}", t.guard(t.remove))
}

// options says what there is.
func (t *tus) options(w http.ResponseWriter, _ *http.Request) error {
	h := w.Header()
	h.Set("Tus-Resumable", tusVersion)
	h.Set("Tus-Version", tusVersion)
	h.Set("Tus-Extension", extensions)
	h.Set("Tus-Max-Size", strconv.FormatInt(t.cfg.MaxUpload, 10))
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// guard refuses what is not tus as it is spoken here, and sees that no request ends in the middle of its body.
func (t *tus) guard(next func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		c := connectionOf(w, t.cfg.Patience)
		w.Header().Set("Tus-Resumable", tusVersion)
		w.Header().Set("Cache-Control", "no-store")
		err := checkTus(r)
		if err == nil {
			err = next(w, r)
		}
		if err != nil {
			c.abandon(w, r, fault.Is(err, fault.Deadline) || errors.Is(err, handler.ErrUploadInterrupted))
		}
		c.writing()
		var s *statusError
		if errors.As(err, &s) {
			if s.status == http.StatusPreconditionFailed {
				w.Header().Set("Tus-Version", tusVersion)
			}
			return refuse(w, r, s.fault, s.status)
		}
		return err
	}
}

// statusError is a fault under a status that tus wants.
type statusError struct {
	fault  *fault.Error
	status int
}

// Error implements error.
func (e *statusError) Error() string { return e.fault.Error() }

// checkTus refuses, by the headers alone, another version of the protocol and what would be ignored.
func checkTus(r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if v := r.Header.Get("Tus-Resumable"); v != tusVersion {
		return &statusError{invalid("Tus-Resumable", "must be %s, not %q", tusVersion, v), http.StatusPreconditionFailed}
	}
	for _, h := range []struct{ name, why string }{
		{"Upload-Concat", "uploads are not put together"},
		{"Upload-Checksum", "pieces are not verified"},
		{"Upload-Defer-Length", "the length must be known when an upload is created"},
		{"X-HTTP-Method-Override", "a request has the method that it has"},
		{"Content-Digest", "pieces are not verified"},
		{"Repr-Digest", "pieces are not verified"},
		{"Content-Range", "where a piece belongs, Upload-Offset says"},
	} {
		if len(r.Header.Values(h.name)) > 0 {
			return invalid(h.name, "is not supported: %s", h.why)
		}
	}
	return errors.Join(plain(r.Header), unconditional(r.Header))
}

// create makes an upload, and takes the first piece if the request has one.
func (t *tus) create(w http.ResponseWriter, r *http.Request) error {
	size, err := number(r.Header, "Upload-Length")
	if err != nil {
		return err
	}
	with, err := piece(r)
	if err != nil {
		return err
	}
	if with && r.ContentLength > size {
		return tooLong(size)
	}
	r.Header.Set("Upload-Metadata", strings.Join(r.Header.Values("Upload-Metadata"), ",")) // tusd looks at the first one alone
	meta, err := readMetadata(r.Header.Get("Upload-Metadata"))
	if err != nil {
		return err
	}
	begun, err := t.h.service.BeginUpload(r.Context(), &assetv1.BeginUploadRequest{Id: meta["asset_id"], OwnerId: meta["owner_id"], Size: size})
	if err != nil {
		return err
	}
	if size > begun.GetMaxBytes() {
		return tooLarge(begun.GetMaxBytes())
	}
	u, made, err := t.announce(begun, size)
	if err != nil {
		return err
	}
	defer made()
	w.Header().Set("Location", uploadsPath+u.String())
	r = r.WithContext(context.WithValue(r.Context(), newUpload{}, u.String()))
	return t.move(w, r, t.pieces.PostFile, u)
}

// announce names a new upload of a user who may have one more, if there is room on the disk; made is to be called when it is there, or won't be. It counts after it has announced, so of those that come at once none is overlooked by all.
func (t *tus) announce(begun *assetv1.BeginUploadResponse, size int64) (u upload, made func(), err error) {
	u, ok := parseUpload(begun.GetOwnerId() + "." + begun.GetId() + "." + rand.Text())
	if !ok {
		return upload{}, nil, fault.New(fault.Internal, "internal error").Because(fmt.Errorf("asset %q of user %q", begun.GetId(), begun.GetOwnerId()))
	}
	if err := t.drafts.room.Check(); err != nil {
		return upload{}, nil, err
	}
	made, err = t.drafts.announce(u, size)
	if err != nil {
		return upload{}, nil, err
	}
	n, bytes, err := t.drafts.unfinished(u.owner)
	switch {
	case err != nil:
	case n > maxUnfinished:
		err = fault.New(fault.RateLimited, "there are %d unfinished uploads of this user, of at most %d: finish or delete one", n-1, maxUnfinished).After(time.Minute)
	case bytes > begun.GetLeftBytes():
		err = fault.New(fault.TooLarge, "with this one, unfinished uploads of this user have %d bytes, and the quota leaves %d: finish or delete one", bytes, begun.GetLeftBytes())
	}
	if err != nil {
		made()
		return upload{}, nil, err
	}
	return u, made, nil
}

// patch takes a piece.
func (t *tus) patch(w http.ResponseWriter, r *http.Request) error {
	offset, err := number(r.Header, "Upload-Offset")
	if err != nil {
		return err
	}
	if len(r.Header.Values("Upload-Length")) > 0 {
		return invalid("Upload-Length", "is said when an upload is created")
	}
	if with, err := piece(r); err != nil || !with {
		return errors.Join(err, noPiece(with))
	}
	u, state, err := t.find(r)
	if err != nil {
		return err
	}
	if state.whole() {
		if offset != state.Size {
			return mismatch(state.Size)
		}
		connectionOf(w, t.cfg.Patience).abandon(w, r, false)
		w.Header().Set("Upload-Offset", strconv.FormatInt(state.Size, 10))
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return t.move(w, r, t.pieces.PatchFile, u)
}

func noPiece(with bool) error {
	if with {
		return nil
	}
	return invalid("Content-Type", "must be %q", tusBody)
}

// move lets tusd take a piece, and gives the content to the asset when that was the last one.
func (t *tus) move(w http.ResponseWriter, r *http.Request, move http.HandlerFunc, u upload) error {
	c := connectionOf(w, t.cfg.Patience)
	c.reading()
	a := &answer{ResponseWriter: w, header: http.Header{}}
	ask := r.Clone(r.Context())
	ask.URL.Path = u.String()
	content := &stalling{Reader: t.drafts.room.Reader(r.Body), Closer: r.Body}
	ask.Body = content
	move(a, ask)
	c.received()
	if a.status >= http.StatusBadRequest {
		return a.fault(content.stalled, t.cfg.Patience)
	}
	if _, err := t.finish(r.Context(), u); err != nil {
		return err
	}
	for _, name := range []string{"Upload-Offset", "Upload-Length"} {
		if v := a.header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	t.expires(w.Header(), u)
	c.writing()
	w.WriteHeader(a.status)
	return nil
}

// head says how much has come.
func (t *tus) head(w http.ResponseWriter, r *http.Request) error {
	u, state, err := t.find(r)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Upload-Offset", strconv.FormatInt(state.offset, 10))
	h.Set("Upload-Length", strconv.FormatInt(state.Size, 10))
	if state.Metadata != "" {
		h.Set("Upload-Metadata", state.Metadata)
	}
	t.expires(h, u)
	w.WriteHeader(http.StatusOK)
	return nil
}

// remove ends an upload, also one whose asset was deleted meanwhile. What an asset has got already it keeps.
func (t *tus) remove(w http.ResponseWriter, r *http.Request) error {
	u, _, err := t.allowed(r)
	if err != nil && (u == upload{} || !fault.Is(err, fault.NotFound)) {
		return err
	}
	if err := t.drafts.remove(r.Context(), u); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// find is the upload that a request names, finished if it has all its bytes. What has not all its bytes, of an asset that has got its content otherwise, is of no use any more: already_exists.
func (t *tus) find(r *http.Request) (upload, state, error) {
	u, complete, err := t.allowed(r)
	if err != nil {
		return upload{}, state{}, err
	}
	s, err := t.finish(r.Context(), u)
	if err == nil && !s.whole() && complete != nil {
		err = complete
	}
	return u, s, err
}

// allowed is the upload that a request names, of an asset that its caller may give content; complete is why not, if that is only because it has content. Errors: not_found, with the upload, when the caller may give content to the owner's
// assets, and this one is not there; all others say that he may not, or that this cannot be told.
func (t *tus) allowed(r *http.Request) (u upload, complete, err error) {
	u, ok := parseUpload(r.PathValue("upload"))
	if !ok {
		return upload{}, nil, unknownUpload()
	}
	_, err = t.h.service.BeginUpload(r.Context(), &assetv1.BeginUploadRequest{Id: u.asset, OwnerId: u.owner, Size: 0})
	if fault.Is(err, fault.AlreadyExists) {
		return u, err, nil
	}
	return u, nil, err
}

// finish gives the asset the content, if all of it is there and that was not done before. It may be repeated, whatever became of it the last time. It goes on when its client has gone: to store gigabytes can take longer than clients
// wait, and each that comes back would begin anew.
func (t *tus) finish(ctx context.Context, u upload) (state, error) {
	s, unlock, err := t.drafts.take(ctx, u)
	if err != nil {
		return state{}, err
	}
	defer unlock()
	if s.done || !s.whole() {
		return s, nil
	}
	ctx = context.WithoutCancel(ctx)
	content, err := t.drafts.open(u)
	if err != nil {
		return state{}, err
	}
	defer func() { _ = content.Close() }()
	first := &head{Reader: content}
	ref, err := t.cfg.Bucket.Put(ctx, first, s.Size)
	if err != nil {
		return state{}, err
	}
	if _, err := t.h.complete(ctx, u.asset, u.owner, ref, first.contentType()); err != nil {
		return state{}, err
	}
	return s, t.drafts.settle(u, s)
}

// expires says until when an upload is kept, if nothing more comes.
func (t *tus) expires(h http.Header, u upload) {
	if last, err := t.drafts.lastByte(u); err == nil {
		h.Set("Upload-Expires", last.Add(expiry).UTC().Format(http.TimeFormat))
	}
}

// piece reports whether a request has a piece of content.
func piece(r *http.Request) (bool, error) {
	if r.Header.Get("Content-Type") == tusBody {
		return true, nil
	}
	if r.ContentLength != 0 {
		return false, &statusError{invalid("Content-Type", "must be %q", tusBody), http.StatusUnsupportedMediaType}
	}
	return false, nil
}

// number reads a header that is a number of bytes.
func number(h http.Header, name string) (int64, error) {
	values := h.Values(name)
	if len(values) == 1 && digits.MatchString(values[0]) {
		if n, err := strconv.ParseInt(values[0], 10, 64); err == nil {
			return n, nil
		}
	}
	return 0, invalid(name, "must be a number of bytes, given once")
}

var digits = regexp.MustCompile(`^[0-9]{1,19}$`)

func unknownUpload() *fault.Error {
	return fault.New(fault.NotFound, "there is no such upload in this region: it was finished, deleted, has expired, or is another region's")
}

func mismatch(offset int64) error {
	return &statusError{fault.New(fault.EtagMismatch, "the upload is at another offset: ask for it with HEAD").With("Upload-Offset", "must be %d", offset), http.StatusConflict}
}

func tooLong(size int64) *fault.Error {
	return fault.New(fault.TooLarge, "the piece goes beyond the upload's %d bytes", size)
}

// answer is what tusd answers, kept back to be told in this API's words. Deadlines are the connection's.
type answer struct {
	http.ResponseWriter
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// stalling notes that a body stopped coming. Tusd takes that for a failure of the disk when it is said as HTTP/2 does.
type stalling struct {
	io.Reader
	io.Closer
	stalled bool
}

// Read implements io.Reader.
func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.stalled = errors.Is(err, os.ErrDeadlineExceeded)
	return n, err
}

// fault is what tusd has refused.
func (a *answer) fault(stalled bool, patience time.Duration) error {
	code, _, _ := strings.Cut(a.body.String(), ":")
	said := errors.New(strings.TrimSpace(a.body.String()))
	again := "what came of it is kept: ask with HEAD how much that is"
	if stalled && code != handler.ErrUploadInterrupted.ErrorCode {
		code = handler.ErrReadTimeout.ErrorCode
	}
	switch code {
	case handler.ErrNotFound.ErrorCode:
		return unknownUpload()
	case handler.ErrMismatchOffset.ErrorCode:
		return &statusError{fault.New(fault.EtagMismatch, "the upload is at another offset: ask for it with HEAD").Because(said), http.StatusConflict}
	case handler.ErrSizeExceeded.ErrorCode:
		return fault.New(fault.TooLarge, "the piece goes beyond the end of the upload").Because(said)
	case handler.ErrLockTimeout.ErrorCode, handler.ErrFileLocked.ErrorCode:
		return busy()
	case handler.ErrReadTimeout.ErrorCode:
		return fault.New(fault.Deadline, "the piece stopped coming, nothing for %v; %s", patience, again).Because(said)
	case handler.ErrUploadInterrupted.ErrorCode:
		return fault.New(fault.Unavailable, "another request for this upload came; %s", again).Because(handler.ErrUploadInterrupted)
	case handler.ErrUnexpectedEOF.ErrorCode, handler.ErrConnectionReset.ErrorCode:
		return fault.New(fault.Invalid, "the piece did not come in whole; %s", again).Because(said)
	default:
		return fault.New(fault.Unavailable, "the piece cannot be stored now; %s", again).Because(said)
	}
}

func busy() *fault.Error {
	return fault.New(fault.Unavailable, "another request has this upload").After(time.Second)
}

// silent is where tusd's lines about each request go: the service has its own.
type silent struct{}

func (silent) Enabled(context.Context, expslog.Level) bool  { return false }
func (silent) Handle(context.Context, expslog.Record) error { return nil }
func (s silent) WithAttrs([]expslog.Attr) expslog.Handler   { return s }
func (s silent) WithGroup(string) expslog.Handler           { return s }
