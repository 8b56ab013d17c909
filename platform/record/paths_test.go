package record_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/internal/sample"
	"antipode.example/platform/record"
)

func TestCopyPaths(t *testing.T) {
	t.Parallel()
	empty, err := sample.New()
	if err != nil {
		t.Fatal(err)
	}
	filled := func(title, city string, more map[string]any) proto.Message {
		m := proto.Clone(empty)
		sample.Set(m, "title", title)
		sample.Set(m, "inner.city", city)
		for name, value := range more {
			sample.Set(m, name, value)
		}
		return m
	}
	from := filled("new", "Paris", map[string]any{"phones": []any{"1", "2"}})
	for name, x := range map[string]struct {
		paths []string
		want  proto.Message
	}{
		"none":          {nil, filled("old", "Rome", map[string]any{"count": int64(7), "inner.note": "n"})},
		"a field":       {[]string{"title"}, filled("new", "Rome", map[string]any{"count": int64(7), "inner.note": "n"})},
		"a field below": {[]string{"inner.city"}, filled("old", "Paris", map[string]any{"count": int64(7), "inner.note": "n"})},
		"a message":     {[]string{"inner"}, filled("old", "Paris", map[string]any{"count": int64(7)})},
		"a list":        {[]string{"phones"}, filled("old", "Rome", map[string]any{"count": int64(7), "inner.note": "n", "phones": []any{"1", "2"}})},
		"not set there": {[]string{"count", "inner.note"}, filled("old", "Rome", nil)},
	} {
		to := filled("old", "Rome", map[string]any{"count": int64(7), "inner.note": "n"})
		if err := record.CopyPaths(to, from, x.paths...); err != nil || !proto.Equal(to, x.want) {
			t.Errorf("%s: %v, %v; want %v", name, to, err, x.want)
		}
	}
	for _, path := range []string{"none", "inner.none", "title.x", "phones.0", "labels.x", ""} {
		if err := record.CopyPaths(proto.Clone(empty), from, path); err == nil {
			t.Errorf("%q was copied", path)
		}
	}
}
