package auth

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	// publishFor is how long a new public key is in every region's file before its private half signs: processes look at their files every five seconds, and others may keep the JWKS
	// document for a minute.
	publishFor = 2 * time.Minute
	// retireAfter is how long an old public key stays after its private half was taken away: until every process has noticed, and then the life of a token.
	retireAfter = 2 * Life
)

// Stage is how far a rotation is.
type Stage string

// The stages, in their order.
const (
	// Published: the new public key is in every region's file; the old one signs.
	Published Stage = "published"
	// Promoted: the new key signs; what the old one signed is accepted still.
	Promoted Stage = "promoted"
	// Retired: the old key is in no file any more. The rotation is complete.
	Retired Stage = "retired"
	// Waiting: it is too early for the next stage, and nothing was changed.
	Waiting Stage = "waiting"
)

// Rotation is what a call of Rotate made, and all files as they are to be.
type Rotation struct {
	Stage   Stage
	Signing SigningKeys
	Verify  []VerifyKeys
	// Next is when to call again; zero when the rotation is complete.
	Next time.Time
}

// NewSigningKey makes a key of 32 bytes of random (crypto/rand.Reader outside tests). Its id is a hash of its public half, so no id is ever used for two keys.
func NewSigningKey(random io.Reader) (SigningKey, error) {
	k := SigningKey{Seed: make([]byte, ed25519.SeedSize)}
	if _, err := io.ReadFull(random, k.Seed); err != nil {
		return SigningKey{}, fmt.Errorf("make a signing key: %w", err)
	}
	sum := sha256.Sum256(k.Public("").Public)
	k.ID = hex.EncodeToString(sum[:8])
	return k, nil
}

// Rotate takes a region's signing key one stage further. signing is that region's file, and verify are the files of all regions as they were just read, the region's own among them.
// Nothing is changed in place.
//
// The files decide what comes next, so it does not matter who called before, or whether what an earlier call returned was written, or only some of it: what is unfinished is finished
// first, and only when nothing is, a new key is made. A caller reads all files, calls, writes what differs (each file at once, by renaming; the signing file before the others), and calls
// again at Next, until the stage is Retired. A key signs only when every file in verify has had its public half for two minutes; a public half leaves the files only ten minutes
// after its key has stopped signing, when its last token has expired. A key that was stolen is not rotated, but replaced in all files at once, with all its tokens: Rotate would publish again what is only
// missing among the public keys.
func Rotate(region string, signing SigningKeys, verify []VerifyKeys, now time.Time, random io.Reader) (Rotation, error) {
	r := Rotation{Signing: SigningKeys{Keys: slices.Clone(signing.Keys)}, Verify: make([]VerifyKeys, len(verify))}
	for i, v := range verify {
		r.Verify[i] = slices.Clone(v)
	}
	if len(signing.Keys) > 2 || len(verify) == 0 {
		return Rotation{}, fmt.Errorf("rotate the key of %s: there are %d signing keys and %d files of public keys; a rotation has at most two, and at least one", region, len(signing.Keys), len(verify))
	}
	err := r.check()
	if err == nil {
		r, err = r.next(region, now.UTC().Round(0), random)
	}
	if err == nil {
		err = r.check() // a key that took another's name is found only now
	}
	if err != nil {
		return Rotation{}, fmt.Errorf("rotate the key of %s: %w", region, err)
	}
	return r, nil
}

func (r Rotation) next(region string, now time.Time, random io.Reader) (Rotation, error) {
	if r.publish(region, now) {
		return r.at(Published, now.Add(publishFor)), nil
	}
	if len(r.Signing.Keys) == 2 {
		if due := r.Signing.Keys[1].Since.Add(publishFor); now.Before(due) {
			return r.at(Waiting, due), nil
		}
		r.Signing.Keys = r.Signing.Keys[1:]
		r.Signing.Keys[0].Since = now
		_, due := r.retire(region, now)
		return r.at(Promoted, due), nil
	}
	switch changed, due := r.retire(region, now); {
	case changed && due.IsZero():
		return r.at(Retired, due), nil
	case changed:
		return r.at(Promoted, due), nil
	case !due.IsZero():
		return r.at(Waiting, due), nil
	}
	k, err := NewSigningKey(random)
	if err != nil {
		return Rotation{}, err
	}
	r.Signing.Keys = append(r.Signing.Keys, k)
	r.publish(region, now)
	return r.at(Published, now.Add(publishFor)), nil
}

func (r Rotation) check() error {
	if err := r.Signing.check(); err != nil {
		return fmt.Errorf("signing keys: %w", err)
	}
	for i, v := range r.Verify {
		if err := v.check(); err != nil {
			return fmt.Errorf("public keys, file %d: %w", i, err)
		}
	}
	return nil
}

func (r Rotation) at(s Stage, next time.Time) Rotation {
	r.Stage, r.Next = s, next
	return r
}

// publish adds to every file what it lacks of the region's keys, and reports whether any lacked one.
func (r Rotation) publish(region string, now time.Time) (changed bool) {
	for i := range r.Signing.Keys {
		k := &r.Signing.Keys[i]
		public := k.Public(region)
		for j := range r.Verify {
			if at := slices.IndexFunc(r.Verify[j], public.same); at < 0 {
				r.Verify[j] = append(r.Verify[j], public)
				k.Since, changed = now, true
			}
		}
	}
	return changed
}

// retire says of the region's public keys that have no private half until when they are needed, and removes those that are not any more. changed reports whether it did either, and due
// is when the next can be removed; zero when none is left.
func (r Rotation) retire(region string, now time.Time) (changed bool, due time.Time) {
	for j, v := range r.Verify {
		kept := v[:0]
		for _, k := range v {
			old := k.Region == region && !r.signs(k)
			switch {
			case old && k.Until.IsZero():
				k.Until, changed = now.Add(retireAfter), true
			case old && !now.Before(k.Until):
				changed = true
				continue
			case !old && k.Region == region:
				k.Until = time.Time{}
			}
			if old && (due.IsZero() || k.Until.Before(due)) {
				due = k.Until
			}
			kept = append(kept, k)
		}
		r.Verify[j] = kept
	}
	return changed, due
}

// signs reports whether a public key has its private half in the signing file.
func (r Rotation) signs(v VerifyKey) bool {
	return slices.ContainsFunc(r.Signing.Keys, func(k SigningKey) bool { return v.same(k.Public(v.Region)) })
}

func (k VerifyKey) same(o VerifyKey) bool {
	return k.kid() == o.kid() && slices.Equal(k.Public, o.Public)
}
