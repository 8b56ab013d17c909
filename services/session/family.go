package session

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
)

const (
	// kept is of how many generations, the last ones, the uses are known.
	kept = 16
	// keyless is for how long a refresh without an idempotency key may be repeated.
	keyless = 30 * time.Second
)

// use is one use of a generation, as it stands in SessionRecord.uses: by requests with one idempotency key, or at a time by one without.
type use struct {
	generation uint64
	digest     string    // of the idempotency key; empty without one
	at         time.Time // of a request without one
}

func (u use) String() string {
	if u.digest != "" {
		return fmt.Sprintf("%d:k%s", u.generation, u.digest)
	}
	return fmt.Sprintf("%d:t%d", u.generation, u.at.UnixMilli())
}

// newUse is what a request with this idempotency key, or with none, at this time makes of a generation.
func newUse(generation uint64, key string, now time.Time) use {
	u := use{generation: generation}
	if key == "" {
		u.at = now.Truncate(time.Millisecond)
		return u
	}
	d := sha256.Sum256([]byte(key))
	u.digest = hex.EncodeToString(d[:16])
	return u
}

// readUse reads an element of SessionRecord.uses. What a newer binary may have written is passed over by the callers.
func readUse(text string) (u use, ok bool) {
	generation, how, ok := strings.Cut(text, ":")
	if !ok || len(how) < 2 {
		return use{}, false
	}
	var err error
	if u.generation, err = strconv.ParseUint(generation, 10, 64); err != nil {
		return use{}, false
	}
	switch how[0] {
	case 'k':
		u.digest = how[1:]
	case 't':
		ms, err := strconv.ParseInt(how[1:], 10, 64)
		if err != nil {
			return use{}, false
		}
		u.at = time.UnixMilli(ms)
	default:
		return use{}, false
	}
	return u, true
}

// agrees reports whether two uses of one generation may come from one and the same client.
func (u use) agrees(o use) bool {
	if u.digest != "" || o.digest != "" {
		return u.digest == o.digest
	}
	return u.at.Sub(o.at).Abs() <= keyless
}

// uses are the uses of one generation that the record knows.
func uses(rec *sessionv1.SessionRecord, generation uint64) []use {
	var all []use
	for _, text := range rec.GetUses() {
		if u, ok := readUse(text); ok && u.generation == generation {
			all = append(all, u)
		}
	}
	return all
}

// stolen reports whether the record knows of two uses of one generation that contradict each other. Regions that could not see each other may each have found theirs to be in order.
func stolen(rec *sessionv1.SessionRecord) bool {
	first := map[uint64][]use{}
	for _, text := range rec.GetUses() {
		u, ok := readUse(text)
		if !ok {
			continue
		}
		for _, o := range first[u.generation] {
			if !u.agrees(o) {
				return true
			}
		}
		first[u.generation] = append(first[u.generation], u)
	}
	return false
}

// outcome is what a use of a refresh token means.
type outcome int

const (
	// fresh: the generation was not used before, as far as this region knows.
	fresh outcome = iota
	// repeated: the same request has used it before.
	repeated
	// theft: somebody else has used it, or did so too long ago to be known.
	theft
)

// judge says what a use means to a record. A generation that was never heard of here is used for the first time: this region may not have seen the last rotations.
func judge(rec *sessionv1.SessionRecord, now use) outcome {
	known := uses(rec, now.generation)
	for _, u := range known {
		if !now.agrees(u) {
			return theft
		}
	}
	switch {
	case len(known) > 0:
		return repeated
	case now.generation+kept <= rec.GetUsed():
		return theft
	}
	return fresh
}

// note writes a use into a record, and forgets those of generations that are too old.
func note(rec *sessionv1.SessionRecord, u use) {
	rec.Used = max(rec.GetUsed(), u.generation)
	rec.Uses = slices.DeleteFunc(append(rec.GetUses(), u.String()), func(text string) bool {
		old, ok := readUse(text)
		return ok && old.generation+kept <= rec.GetUsed()
	})
}
