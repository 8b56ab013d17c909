package operate

import (
	"bytes"
	"strings"
	"sync"
)

// watched keeps what is written, and tells when something has shown in it.
type watched struct {
	want string
	seen chan struct{}

	mu   sync.Mutex
	all  bytes.Buffer
	told bool
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all.Write(b)
	if !w.told && strings.Contains(w.all.String(), w.want) {
		w.told = true
		close(w.seen)
	}
	return len(b), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}
