package work

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"antipode.example/platform/id"
)

const (
	// mostDeaths is how often a process may die over one image before that is left alone for as long as mourning says.
	mostDeaths = 3
	mourning   = time.Hour
)

// deaths are the images that a process was at work on when it was killed, as it is for taking too much memory: what a process finds here at its start it would otherwise begin with again, and die again. Any of those that were under way
// may have been the cause, so each is looked into alone the next time. They are files, one for each image, in a directory of this process; without one, nothing is known of deaths.
type deaths struct{ dir string }

func openDeaths(dir string) (deaths, error) {
	if dir == "" {
		return deaths{}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return deaths{}, fmt.Errorf("make the directory of attempts: %w", err)
	}
	return deaths{dir}, nil
}

func (d deaths) path(asset id.ID) string { return filepath.Join(d.dir, asset.String()) }

// over is how many deaths there were over an image, and when the last attempt began.
func (d deaths) over(asset id.ID) (n int, last time.Time) {
	if d.dir == "" {
		return 0, time.Time{}
	}
	b, err := os.ReadFile(d.path(asset))
	info, statErr := os.Stat(d.path(asset))
	if err != nil || statErr != nil {
		return 0, time.Time{}
	}
	n, err = strconv.Atoi(string(b))
	if err != nil {
		n = 1 // it died while it wrote
	}
	return n, info.ModTime()
}

// begin notes an attempt, which counts as a death until left is called. What cannot be noted is done all the same.
func (d deaths) begin(asset id.ID) (left func()) {
	if d.dir == "" {
		return func() {}
	}
	n, _ := d.over(asset)
	_ = os.WriteFile(d.path(asset), []byte(strconv.Itoa(n+1)), 0o600)
	return func() { _ = os.Remove(d.path(asset)) }
}

// errKills: an image is left alone.
var errKills = errors.New("processes have died over this image: it is left alone for an hour")
