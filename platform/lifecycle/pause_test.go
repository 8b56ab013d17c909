package lifecycle

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !Pause(t.Context(), time.Minute) || time.Since(begin) != time.Minute {
			t.Errorf("it waited %v", time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if Pause(ctx, time.Minute) || time.Since(begin) != time.Second {
			t.Errorf("with a context that ends after a second it waited %v", time.Since(begin))
		}
	})
}
