package engine

import "testing"

func TestOnlyFenced(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]bool{
		`{"ready":false,"draining":false,"checks":{"admitted":{"ok":false,"error":"fenced: region x …"},"shards":{"ok":true}}}`:                     true,
		`{"ready":false,"draining":false,"checks":{"admitted":{"ok":false,"error":"fenced: region x …"},"shards":{"ok":false,"error":"no route"}}}`: false,
		`{"ready":false,"draining":false,"checks":{"admitted":{"ok":false,"error":"no_quorum: …"},"shards":{"ok":true}}}`:                           false,
		`{"ready":false,"draining":true,"checks":{"admitted":{"ok":false,"error":"fenced: region x …"}}}`:                                           false,
		`{"ready":false,"draining":false,"checks":{"admitted":{"ok":true},"shards":{"ok":true}}}`:                                                   false,
		`not json`: false,
	} {
		if got := onlyFenced([]byte(body)); got != want {
			t.Errorf("%s: %t", body, got)
		}
	}
}
