package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"antipode.example/platform/shard"
)

// reach says whether an instance reaches its shards well enough to serve: every one of them to begin with, and from then on at least one. A shard whose primary
// fails over takes its own users' writes with it; if it made instances unready, the load balancer would take all other users' requests away as well.
type reach struct{ all atomic.Bool }

func (r *reach) check(ctx context.Context, shards []*shard.Shard) error {
	errs := make([]error, len(shards))
	var wg sync.WaitGroup
	for i, s := range shards {
		wg.Go(func() {
			if err := s.Primary.Ping(ctx); err != nil {
				errs[i] = fmt.Errorf("shard %s: %w", s.Name, err)
			}
		})
	}
	wg.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
	}
	if failed == 0 {
		r.all.Store(true)
	}
	if failed < len(shards) && r.all.Load() {
		return nil
	}
	return errors.Join(errs...)
}
