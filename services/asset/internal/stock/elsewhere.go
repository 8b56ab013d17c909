package stock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"antipode.example/platform/blob"
)

// Source is another region's instance, asked whether a blob is there; see blob.HTTPSource.
type Source interface {
	Has(ctx context.Context, ref blob.Ref) (bool, error)
}

// askFirst and askLast are between two rounds of questions: at first a blob comes within a second or so.
const askFirst, askLast = 100 * time.Millisecond, time.Second

// Elsewhere returns nil as soon as one of the sources has a blob, or when ctx ends why that is not known.
func Elsewhere(ctx context.Context, sources []Source, ref blob.Ref) error {
	for wait := askFirst; ; wait = min(2*wait, askLast) {
		err := anywhere(ctx, sources, ref)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait until another region has blob %s: %w", ref.SHA256, errors.Join(ctx.Err(), err))
		case <-timer.C:
		}
	}
}

var errNowhere = errors.New("no other region has it yet")

// anywhere asks all at once: one that is dead does not answer.
func anywhere(ctx context.Context, sources []Source, ref blob.Ref) error {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	answers := make(chan error, len(sources))
	for _, s := range sources {
		go func() {
			has, err := s.Has(ctx, ref)
			if err == nil && !has {
				err = errNowhere
			}
			answers <- err
		}()
	}
	errs := []error{errNowhere}
	for range sources {
		err := <-answers
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
