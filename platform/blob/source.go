package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// Source is a place from which blobs can be had: another region.
type Source interface {
	// Open gives the content of a blob from an offset on, which is 0 or lies before its end. What it gives is not trusted. Both Open and the reading end soon after ctx does. An error that wraps ErrNotFound says that the
	// source does not have the blob.
	Open(ctx context.Context, ref Ref, offset int64) (io.ReadCloser, error)
}

// Path is where Handler belongs: "GET "+Path is a pattern of http.ServeMux, and HTTPSource asks there.
const Path = "/v1/blobs/{sha256}"

// HTTPSource asks the Handler of another region. It sends no credentials of its own: they are its client's business.
type HTTPSource struct {
	// Base is the region's address, "http://host:port".
	Base *url.URL
	// Client must not limit the time of whole requests: a blob may take long.
	Client *http.Client
}

// Open implements Source.
func (s *HTTPSource) Open(ctx context.Context, ref Ref, offset int64) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Base.JoinPath("v1", "blobs", ref.SHA256.String()).String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask for blob %s: %w", ref.SHA256, err)
	}
	r.Header.Set("Accept-Encoding", "identity") // a range of what was compressed on the way would be none of the content
	if offset > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	answer, err := s.Client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask for blob %s: %w", ref.SHA256, err)
	}
	if err := checkAnswer(answer, ref, offset); err != nil {
		_ = answer.Body.Close()
		return nil, fmt.Errorf("ask %s for blob %s at %d: %w", s.Base.Host, ref.SHA256, offset, err)
	}
	return answer.Body, nil
}

// Has reports whether the source has a blob, without reading it. An error is that this cannot be told.
func (s *HTTPSource) Has(ctx context.Context, ref Ref) (bool, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, s.Base.JoinPath("v1", "blobs", ref.SHA256.String()).String(), http.NoBody)
	if err != nil {
		return false, fmt.Errorf("ask whether blob %s is there: %w", ref.SHA256, err)
	}
	r.Header.Set("Accept-Encoding", "identity")
	answer, err := s.Client.Do(r)
	if err != nil {
		return false, fmt.Errorf("ask whether blob %s is there: %w", ref.SHA256, err)
	}
	_ = answer.Body.Close()
	err = checkAnswer(answer, ref, 0)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask %s whether blob %s is there: %w", s.Base.Host, ref.SHA256, err)
	}
	return true, nil
}

// checkAnswer refuses what is not the rest of a content of the size that is wanted.
func checkAnswer(answer *http.Response, ref Ref, offset int64) error {
	ranged := fmt.Sprintf("bytes %d-%d/%d", offset, ref.Size-1, ref.Size)
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return ErrNotFound
	case offset == 0 && answer.StatusCode == http.StatusOK:
		if length := answer.Header.Get("Content-Length"); length != strconv.FormatInt(ref.Size, 10) {
			return fmt.Errorf("it has %q bytes instead of %d", length, ref.Size)
		}
		return nil
	case offset > 0 && answer.StatusCode == http.StatusPartialContent:
		if got := answer.Header.Get("Content-Range"); got != ranged {
			return fmt.Errorf("it has %q instead of %q", got, ranged)
		}
		return nil
	}
	return fmt.Errorf("it answers %s", answer.Status)
}

// errStalled: a source gave nothing for too long.
var errStalled = errors.New("the source has stalled")

// stream reads from a source, and gives up when that gives nothing for a while. Only waiting for the source counts, not what the reader does between reads.
type stream struct {
	body   io.ReadCloser
	stall  time.Duration
	timer  *time.Timer
	end    context.CancelFunc
	silent atomic.Bool
}

// openStream opens what is left of a blob at a source.
func openStream(ctx context.Context, from Source, ref Ref, offset int64, stall time.Duration) (*stream, error) {
	ctx, end := context.WithCancel(ctx)
	s := &stream{stall: stall, end: end}
	s.timer = time.AfterFunc(stall, func() {
		s.silent.Store(true)
		end()
	})
	body, err := from.Open(ctx, ref, offset)
	s.timer.Stop()
	if err != nil {
		end()
		return nil, s.reason(err)
	}
	s.body = body
	return s, nil
}

// Read reads for as long as the source gives something now and then.
func (s *stream) Read(p []byte) (int, error) {
	s.timer.Reset(s.stall)
	n, err := s.body.Read(p)
	s.timer.Stop()
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, s.reason(err)
}

func (s *stream) reason(err error) error {
	if s.silent.Load() {
		return fmt.Errorf("nothing for %v: %w", s.stall, errStalled)
	}
	return err
}

// Close ends the request.
func (s *stream) Close() error {
	s.timer.Stop()
	s.end()
	return s.body.Close()
}
