package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

const (
	// silence is how long a stream may bring nothing that is accepted; there should be a line each second.
	silence = 3 * time.Second
	// retry is the pause after a stream that has brought nothing.
	retry = 250 * time.Millisecond
	// maxLine bounds a line: a thousand regions fit.
	maxLine = 256 << 10
)

// follower takes snapshots from one controller at a time, and goes on to the next when a stream ends, breaks, is silent, or brings what can't be accepted.
type follower struct {
	controllers []string
	client      *http.Client
	take        func(ctx context.Context, line []byte) error
	log         *slog.Logger
}

func newFollower(cfg Config, s *state, log *slog.Logger) *follower {
	return &follower{cfg.Controllers, &http.Client{
		// Nothing is kept: a stream that broke tells that its connection is of no use.
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, s.take, log}
}

// run follows controllers until ctx ends.
func (f *follower) run(ctx context.Context) error {
	broken := false // announced once until there is news again
	for i := 0; ; i = (i + 1) % len(f.controllers) {
		url := f.controllers[i]
		news, err := f.follow(ctx, url, func() {
			if broken {
				broken = false
				f.log.InfoContext(ctx, "snapshots come again", slog.String("controller", url))
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !broken {
			broken = true
			f.log.WarnContext(ctx, "a controller sends no snapshots; asking the next", slog.String("controller", url), slog.Any("error", err))
		}
		if news {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retry):
		}
	}
}

var errSilent = errors.New("nothing that could be accepted for 3 s")

// follow takes snapshots from one controller until it fails, and tells of each that was accepted. It reports whether there was any.
func (f *follower) follow(ctx context.Context, url string, accepted func()) (news bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer alarm.Stop()
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
	}()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/v1/snapshots", nil)
	if err != nil {
		return false, fmt.Errorf("ask for snapshots: %w", err)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return false, fmt.Errorf("ask for snapshots: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return false, fmt.Errorf("ask for snapshots: the answer is %s", response.Status)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		switch err := f.take(ctx, lines.Bytes()); {
		case errors.Is(err, errOlder): // it may catch up, within the time that is left
		case err != nil:
			return news, err
		default:
			news = true
			alarm.Reset(silence)
			accepted()
		}
	}
	if err := lines.Err(); err != nil {
		return news, fmt.Errorf("read snapshots: %w", err)
	}
	return news, errors.New("the stream of snapshots ended")
}
