package blob

import (
	"errors"
	"fmt"
	"io"
)

// Content is a blob that is being read. It opens what it reads when it is first read from, and anew after a Seek elsewhere, so that http.ServeContent on it fetches the ranges that were asked for and
// nothing else. It is not safe for concurrent use. Its reads end with the context with which it was opened.
type Content struct {
	sum  Sum
	size int64
	open func(offset int64) (io.ReadCloser, error)
	body io.ReadCloser // open at offset at; nil when nothing is
	at   int64
	pos  int64
	// count is told of bytes that were read; may be nil.
	count func(n int64)
}

// Size is the blob's size in bytes.
func (c *Content) Size() int64 { return c.size }

// Read reads at the position. A blob that is deleted while it is read may end with ErrNotFound; one that turns out to be shorter than its size is io.ErrUnexpectedEOF.
func (c *Content) Read(p []byte) (int, error) {
	if c.pos >= c.size {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := c.reach(); err != nil {
		return 0, err
	}
	n, err := c.body.Read(p[:min(int64(len(p)), c.size-c.pos)])
	c.pos += int64(n)
	c.at = c.pos
	if c.count != nil {
		c.count(int64(n))
	}
	switch {
	case n > 0 || err == nil:
		return n, nil // an error comes again, or does not matter because this was the end
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return 0, broken(fmt.Sprintf("read blob %s at %d", c.sum, c.pos), err)
}

// reach has a body that is open at the position.
func (c *Content) reach() error {
	if c.body != nil && c.at == c.pos {
		return nil
	}
	c.release()
	body, err := c.open(c.pos)
	if err != nil {
		return broken(fmt.Sprintf("read blob %s at %d", c.sum, c.pos), err)
	}
	c.body, c.at = body, c.pos
	return nil
}

func (c *Content) release() {
	if c.body != nil {
		_ = c.body.Close()
		c.body = nil
	}
}

// Seek sets the position, which may lie beyond the end. It reads nothing.
func (c *Content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += c.pos
	case io.SeekEnd:
		offset += c.size
	default:
		return 0, fmt.Errorf("seek in blob %s: whence %d", c.sum, whence)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek in blob %s: offset %d", c.sum, offset)
	}
	c.pos = offset
	return offset, nil
}

// Close releases what is open. The content may not be read any more.
func (c *Content) Close() error {
	c.release()
	return nil
}
