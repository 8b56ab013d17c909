package blob

import (
	"errors"
	"log/slog"
	"net/http"
	"time"

	"antipode.example/platform/fault"
)

// writeTime is how long a reader may take nothing before it is cut off.
const writeTime = 30 * time.Second

// Handler gives blobs to other regions: GET and HEAD, whole or in ranges. It belongs under Path, behind something that lets only them in. It tells no content type, because it knows none. A reader that takes nothing for 30 s is
// cut off; how long it takes in all is not limited.
func (b *Bucket) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := b.serve(w, r); err != nil {
			if errors.Is(err, ErrNotFound) {
				err = fault.New(fault.NotFound, "there is no such blob here").Because(err)
			}
			f := fault.From(err)
			b.log.DebugContext(r.Context(), "blob not given", slog.String("path", r.URL.Path), slog.Any("error", f))
			_ = f.WriteProblem(w, "", 0) // the caller went away
		}
	})
}

// serve answers with a blob, or says why it has written nothing.
func (b *Bucket) serve(w http.ResponseWriter, r *http.Request) error {
	sum, err := ParseSum(r.PathValue("sha256"))
	if err != nil {
		return err
	}
	content, err := b.open(r.Context(), sum)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Etag", `"`+sum.String()+`"`)
	// An error on the way leaves the answer shorter than it said it would be, which its reader notices.
	http.ServeContent(&patient{ResponseWriter: w, control: http.NewResponseController(w)}, r, "", time.Time{}, content)
	return nil
}

// patient moves the connection's deadline on before each write.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(writeTime)) // a writer without deadlines has its own way to end
	return p.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the writer.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
