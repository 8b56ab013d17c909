package media

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"antipode.example/platform/fault"
)

// sip is how many bytes a decoder gets at a time. A scan of a progressive JPEG takes a hundred bytes, and a tenth of a second in an image of the greatest size.
const sip = 512

// source is the content of an image on the way to a decoder. It gives few bytes at a time, and none once it is stopped; and it keeps why reading failed, which decoders hide in errors of their own.
type source struct {
	r        io.ReadSeeker
	buffered *bufio.Reader
	stop     func() error
	size     int64
	// failed is why nothing can be read, for another reason than that there is nothing more.
	failed error
}

func newSource(ctx context.Context, r io.ReadSeeker) (*source, error) {
	size, err := r.Seek(0, io.SeekEnd)
	s := &source{r: r, buffered: bufio.NewReaderSize(r, 64<<10), stop: ctx.Err, size: size, failed: err}
	return s, s.rewind()
}

// Read is io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if s.failed == nil {
		s.failed = s.stop()
	}
	if s.failed != nil {
		return 0, s.failed
	}
	n, err := s.buffered.Read(p[:min(len(p), sip)])
	if err != nil && err != io.EOF {
		s.failed = err
	}
	return n, err
}

// rewind goes back to the beginning.
func (s *source) rewind() error {
	if s.failed == nil {
		_, s.failed = s.r.Seek(0, io.SeekStart)
		s.buffered.Reset(s.r)
	}
	if s.failed != nil {
		return s.fault(s.failed)
	}
	return nil
}

// fault is why an image was not understood: because it could not be read, or else because it is not valid. A fault stays as it is.
func (s *source) fault(err error) error {
	var f *fault.Error
	switch {
	case errors.As(err, &f):
		return err
	case errors.Is(s.failed, context.Canceled), errors.Is(s.failed, context.DeadlineExceeded):
		return fault.New(fault.Deadline, "the time for the image is over").Because(s.failed)
	case s.failed != nil:
		return fault.New(fault.Unavailable, "the content cannot be read at the moment").Because(s.failed)
	default:
		return invalid("it is not an image, or damaged").Because(err)
	}
}

// invalid is the fault of content that is no valid image.
func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.Invalid, "the content is not a valid image").With("content", format, args...)
}

// tooLarge is the fault of content that is beyond the bounds.
func tooLarge(format string, args ...any) *fault.Error {
	return fault.New(fault.TooLarge, "the image is too large: %s", fmt.Sprintf(format, args...))
}
