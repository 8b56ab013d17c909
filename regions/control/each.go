package control

import (
	"errors"
	"strings"
	"sync"
)

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

// mostWhy bounds the reason of an opinion, in bytes: it is written into the global store every second.
const mostWhy = 300

// brief is an error on one line, that is not too long.
func brief(err error) string {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	if len(text) > mostWhy {
		text = strings.ToValidUTF8(text[:mostWhy], "") + "…"
	}
	return text
}
