package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"antipode.example/platform/fault"
)

// ReadThrough opens a blob to be read, with ctx: from the bucket when it is there, or else from the first source that has it, without storing it. When a source breaks off or stalls, the next one continues. What is
// read from other regions from beginning to end is verified: were the hash wrong, its end would not be given, but an error. Ranges of it are not verified.
//
// Errors: ErrNotFound when neither the bucket nor any source has it; Unavailable when it may be where nothing can be had from now.
func (p *Puller) ReadThrough(ctx context.Context, ref Ref) (*Content, error) {
	c, hereErr := p.cfg.Bucket.Open(ctx, ref)
	if hereErr == nil {
		return c, nil
	}
	relay := func(offset int64) (io.ReadCloser, error) { return p.relay(ctx, ref, offset) }
	first, err := relay(0)
	switch {
	case err == nil:
		return &Content{sum: ref.SHA256, size: ref.Size, open: relay, body: first}, nil
	case errors.Is(hereErr, ErrNotFound):
		return nil, err
	default:
		return nil, hereErr
	}
}

// relay reads a blob from sources.
type relay struct {
	ref Ref
	// open opens the blob at a source, at the position; note says what came of a source; count counts bytes.
	open     func(Peer) (*stream, error)
	note     func(Peer, error)
	count    func(n int64)
	left     []Peer // not tried yet
	from     Peer
	body     *stream // of from; nil after Close
	pos      int64
	hash     hash.Hash // of everything from the beginning on; nil when it was not read from there
	failures []error
}

func (p *Puller) relay(ctx context.Context, ref Ref, offset int64) (io.ReadCloser, error) {
	r := &relay{ref: ref, left: p.cfg.Peers, pos: offset}
	r.open = func(peer Peer) (*stream, error) { return openStream(ctx, peer.Source, ref, r.pos, p.cfg.Stall) }
	r.note = func(peer Peer, err error) { p.note(ctx, peer, ref, err) }
	r.count = func(n int64) { p.cfg.Bucket.metrics.bytes.relayed(ctx, n) }
	if offset == 0 {
		r.hash = sha256.New()
	}
	if err := r.next(nil); err != nil {
		return nil, err
	}
	return r, nil
}

// next goes on to the next source, because of what was wrong with the one before, if there was one.
func (r *relay) next(wrong error) error {
	_ = r.Close()
	for {
		if wrong != nil {
			r.note(r.from, wrong)
			r.failures = append(r.failures, fmt.Errorf("%s: %w", r.from.Region, wrong))
		}
		if len(r.left) == 0 {
			return verdict(r.ref, r.failures)
		}
		r.from, r.left = r.left[0], r.left[1:]
		if r.body, wrong = r.open(r.from); wrong == nil {
			return nil
		}
	}
}

// Read implements io.Reader.
func (r *relay) Read(p []byte) (int, error) {
	for r.body != nil {
		n, err := r.body.Read(p[:min(int64(len(p)), r.ref.Size-r.pos)])
		if n > 0 {
			return r.take(p[:n])
		}
		if err == nil {
			continue
		}
		if err := r.next(unexpected(err)); err != nil {
			return 0, err
		}
	}
	return 0, io.ErrClosedPipe
}

// take accounts for what was read, and withholds the end of what is not the content.
func (r *relay) take(read []byte) (int, error) {
	r.pos += int64(len(read))
	r.count(int64(len(read)))
	if r.hash != nil {
		r.hash.Write(read)
	}
	if r.pos < r.ref.Size {
		return len(read), nil
	}
	if r.hash != nil && Sum(r.hash.Sum(nil)) != r.ref.SHA256 {
		r.note(r.from, errCorrupt)
		return 0, fault.New(fault.Unavailable, "the content cannot be had from where it is").Because(errCorrupt)
	}
	r.note(r.from, nil)
	return len(read), nil
}

// Close ends the request.
func (r *relay) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}

// unexpected is the end of a content that is not whole.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
