package purge

import (
	"maps"
	"slices"
	"time"
)

// maxTags is how many tags an edge may be owed; beyond that it is owed everything.
const maxTags = 10_000

// everything is the tag that all has.
const everything = "all"

// debt is what an edge is to be told.
type debt struct {
	tags map[string]bool
	all  bool
	// since are the places in logs that must not be noted before: the first offset of each partition for which this is.
	since map[part]int64
	// oldest is when the oldest write was made of which this is; zero if that does not matter.
	oldest time.Time
}

func (d *debt) empty() bool { return len(d.tags) == 0 && !d.all }

// add makes d what it was and o.
func (d *debt) add(o debt) {
	if d.tags == nil {
		d.tags, d.since = map[string]bool{}, map[part]int64{}
	}
	maps.Copy(d.tags, o.tags)
	if d.all = d.all || o.all || len(d.tags) > maxTags; d.all {
		clear(d.tags)
	}
	for at, offset := range o.since {
		if first, ok := d.since[at]; !ok || offset < first {
			d.since[at] = offset
		}
	}
	if d.oldest.IsZero() || !o.oldest.IsZero() && o.oldest.Before(d.oldest) {
		d.oldest = o.oldest
	}
}

// words are the tags to send.
func (d *debt) words() []string {
	if d.all {
		return []string{everything}
	}
	return slices.Sorted(maps.Keys(d.tags))
}
