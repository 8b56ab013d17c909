package content

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
	"antipode.example/services/asset/internal/media"
)

// maxDiscard is how much of a body that nobody wants is read and thrown away, so that its sender gets to read the answer; discardTime is how long that may take.
const (
	maxDiscard  = 16 << 20
	discardTime = 5 * time.Second
)

// connection moves the deadlines of a request's connection on. They are the machine's time: a clock that is wrong must not cut anybody off.
type connection struct {
	control  *http.ResponseController
	patience time.Duration
}

func connectionOf(w http.ResponseWriter, patience time.Duration) connection {
	return connection{http.NewResponseController(w), patience}
}

// A writer without deadlines has its own way to end; so errors of setting them mean nothing.
func (c connection) reading() { _ = c.control.SetReadDeadline(deadline(c.patience)) }
func (c connection) writing() { _ = c.control.SetWriteDeadline(deadline(c.patience)) }

// received ends the deadline for reading, which would otherwise end the request while it is worked on.
func (c connection) received() {
	_ = c.control.SetReadDeadline(time.Time{})
	_ = c.control.SetWriteDeadline(time.Time{})
}

// abandon gives up a body that is not wanted, and makes the answer the last on its connection: nobody knows where in the body that is then. Of a sender that may read no answer before all is sent, it throws away what comes; when
// the body has failed, nothing more is waited for. net/http itself would wait for the rest without end.
func (c connection) abandon(w http.ResponseWriter, r *http.Request, failed bool) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	if !failed && r.ContentLength != 0 && r.Header.Get("Expect") == "" {
		_ = c.control.SetReadDeadline(deadline(discardTime))
		_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
	}
	_ = c.control.SetReadDeadline(deadline(0))
}

func deadline(d time.Duration) time.Time {
	return time.Now().Add(d) //nolint:forbidigo // a deadline of a connection is the machine's time
}

// body is the content in a request.
type body struct {
	io.Reader
	connection
	// failed: nothing more will come.
	failed bool
}

// Read gives up when nothing comes for a while, and says what was wrong with what came.
func (b *body) Read(p []byte) (int, error) {
	b.reading()
	n, err := b.Reader.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	b.failed = true
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, fault.New(fault.Invalid, "the content stopped coming: nothing for %v", b.patience).Because(err)
	default:
		return n, fault.New(fault.Invalid, "the content did not come in whole").Because(err)
	}
}

// head keeps the beginning of what is read through it.
type head struct {
	io.Reader
	first []byte
}

// Read implements io.Reader.
func (h *head) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if room := media.SniffBytes - len(h.first); room > 0 {
		h.first = append(h.first, p[:min(n, room)]...)
	}
	return n, err
}

// contentType is the type by what has been read.
func (h *head) contentType() string { return string(media.Sniff(h.first)) }

// verified gives an error in place of the end of what is not as it was announced.
type verified struct {
	io.Reader
	hash hash.Hash
	want blob.Sum
}

// verify is r when nothing was announced.
func verify(r io.Reader, want *blob.Sum) io.Reader {
	if want == nil {
		return r
	}
	return &verified{r, sha256.New(), *want}
}

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.Reader.Read(p)
	v.hash.Write(p[:n])
	if err == io.EOF && blob.Sum(v.hash.Sum(nil)) != v.want {
		return 0, invalid("Content-Digest", "the content has another SHA-256").Because(blob.ErrMismatch)
	}
	return n, err
}

// announced is the SHA-256 that headers announce (RFC 9530); nil if there is none. Here both headers mean the same, for content is not coded and comes whole.
func announced(h http.Header) (*blob.Sum, error) {
	var sum *blob.Sum
	for _, name := range []string{"Content-Digest", "Repr-Digest"} {
		values := h.Values(name)
		if len(values) == 0 {
			continue
		}
		s, err := digest(name, strings.Join(values, ","))
		if err != nil {
			return nil, err
		}
		if sum != nil && *s != *sum {
			return nil, invalid(name, "is another one than Content-Digest")
		}
		sum = s
	}
	return sum, nil
}

// digest reads the SHA-256 in a dictionary of structured fields (RFC 9651) whose values are byte sequences. Digests by other algorithms beside it are not looked at.
func digest(name, text string) (*blob.Sum, error) {
	var sum *blob.Sum
	for member := range strings.SplitSeq(text, ",") {
		algorithm, value, _ := strings.Cut(strings.Trim(member, " \t"), "=")
		if algorithm != "sha-256" {
			continue
		}
		b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(strings.TrimPrefix(value, ":"), ":"))
		if err != nil || len(b) != sha256.Size || value != ":"+base64.StdEncoding.EncodeToString(b)+":" || sum != nil {
			return nil, invalid(name, "sha-256 must be given once, as a byte sequence of 32 bytes (RFC 9530)")
		}
		s := blob.Sum(b)
		sum = &s
	}
	if sum == nil {
		return nil, invalid(name, "must have a digest by sha-256: no other one is verified")
	}
	return sum, nil
}
