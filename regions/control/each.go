package control

import (
	"errors"
	"strings"
	"sync"
)

// line is an error in one line: joined ones have several.
func line(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// each does n things at once and waits for all.
func each(n int, do func(i int) error) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = do(i) })
	}
	all.Wait()
	return errors.Join(errs...)
}
