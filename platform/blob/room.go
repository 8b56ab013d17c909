package blob

import (
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"antipode.example/platform/fault"
)

// Room sees that something is left free on the disk of a directory: databases and logs may be on the same one, and a service that fills it takes them along. What is written at a time may take up to roomStep for each writer.
type Room struct {
	// Directory is on the disk.
	Directory string
	// Reserve is what must be left, in bytes; 0 means that nothing need be.
	Reserve int64
}

// roomStep is how many bytes are written before it is looked again how many are free.
const roomStep = 16 << 20

// Check is nil while more than the reserve is free. Errors: Unavailable.
func (r Room) Check() error {
	if r.Reserve <= 0 {
		return nil
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(r.Directory, &disk); err != nil {
		return broken("look how much of the disk is free", err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < uint64(r.Reserve) { //nolint:gosec // neither is negative
		return fault.New(fault.Unavailable, "there is no room for content now").Because(fmt.Errorf("%d bytes are free at %s, and %d must be", free, r.Directory, r.Reserve)).After(time.Minute)
	}
	return nil
}

// Reader is what r has, for as long as there is room for it on the disk. Its error then is that of Check.
func (r Room) Reader(from io.Reader) io.Reader { return &roomy{from, watch{Room: r}} }

// watch is a Room that is looked at now and then.
type watch struct {
	Room
	left int // bytes until the next look
}

// look is Check, if it is time for that.
func (w *watch) look() error {
	if w.left > 0 {
		return nil
	}
	w.left = roomStep
	return w.Check()
}

type roomy struct {
	io.Reader
	watch
}

// Read implements io.Reader.
func (r *roomy) Read(p []byte) (int, error) {
	if err := r.look(); err != nil {
		return 0, err
	}
	n, err := r.Reader.Read(p)
	r.left -= n
	return n, err
}
