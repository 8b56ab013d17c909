package auth

import (
	"crypto/rand"
	"encoding/base64"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"pgregory.net/rapid"
)

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// encoder writes attributes as "key=value".
type encoder struct{}

func (encoder) Encode(it attribute.Iterator) string {
	text := ""
	for it.Next() {
		a := it.Attribute()
		text += string(a.Key) + "=" + a.Value.String()
	}
	return text
}
func (encoder) ID() attribute.EncoderID { return attribute.EncoderID{} }

// rotate calls Rotate for us-east with the files as they are.
func (w *world) rotate() Rotation {
	w.t.Helper()
	var verify []VerifyKeys
	for _, r := range w.regions {
		verify = append(verify, w.verify[r])
	}
	r, err := Rotate("us-east", w.signing["us-east"], verify, w.clock.Now(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// install writes what a rotation made.
func (w *world) install(r Rotation) {
	w.signing["us-east"] = r.Signing
	for i, region := range w.regions {
		w.verify[region] = r.Verify[i]
		w.write(region)
	}
}

func TestRotationOverlaps(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west", "ap-south")
	var keys []*Keys
	for _, r := range w.regions {
		keys = append(keys, w.open(r))
	}
	old := w.signing["us-east"].Keys[0]
	foreign := len(w.verify["us-east"]) - 1
	var tokens []string // that have not expired
	serve := func(what string) {
		t.Helper()
		for _, k := range keys {
			k.Check(t.Context())
		}
		tokens = append(tokens, w.token(keys[0], alice()))
		for _, k := range keys {
			for _, token := range tokens {
				if _, err := k.Verify(token); err != nil {
					t.Errorf("%s: %s refuses: %v", what, k.cfg.Region, err)
				}
			}
		}
	}
	serve("before")
	r := w.rotate()
	if r.Stage != Published || !r.Next.Equal(w.clock.Now().Add(publishFor)) {
		t.Fatalf("got %v, next %v", r.Stage, r.Next)
	}
	w.install(r)
	serve("published")
	if again := w.rotate(); again.Stage != Waiting || !again.Next.Equal(r.Next) || !reflect.DeepEqual(again.Verify, r.Verify) || !reflect.DeepEqual(again.Signing, r.Signing) {
		t.Errorf("called again too early: %v", again.Stage)
	}
	w.clock.forward(publishFor)
	if r = w.rotate(); r.Stage != Promoted || len(r.Signing.Keys) != 1 || r.Signing.Keys[0].ID == old.ID {
		t.Fatalf("got %v", r.Stage)
	}
	w.install(r)
	tokens = []string{w.token(keys[0], alice())} // by a process that has not looked yet, with the old key
	serve("promoted")
	w.clock.forward(Life - time.Second)
	serve("at the end of the old key's last token")
	if again := w.rotate(); again.Stage != Waiting || !again.Next.Equal(r.Next) {
		t.Errorf("called again too early: %v", again.Stage)
	}
	w.clock.forward(r.Next.Sub(w.clock.Now()))
	if r = w.rotate(); r.Stage != Retired || !r.Next.IsZero() {
		t.Fatalf("got %v", r.Stage)
	}
	w.install(r)
	tokens = nil
	serve("retired")
	for _, region := range w.regions {
		if v := w.verify[region]; len(v) != foreign+1 || slices.ContainsFunc(v, func(k VerifyKey) bool { return k.ID == old.ID }) {
			t.Errorf("%s has %d public keys", region, len(v))
		}
	}
	if len(w.signing["us-east"].Keys) != 1 {
		t.Errorf("%d signing keys are left", len(w.signing["us-east"].Keys))
	}
}

// However often a rotation is cut off between two files, and whenever it is called again: what the region signs every region accepts until it expires, also who has the JWKS document of a minute ago; no file is ever
// bad, and it comes to its end. Processes are no more than what they last read here; a token is the name of its key.
func TestRotationMayBeCutOff(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west", "ap-south")
	current := func() (SigningKeys, []VerifyKeys) {
		return w.signing["us-east"], []VerifyKeys{w.verify["us-east"], w.verify["eu-west"], w.verify["ap-south"]}
	}
	startSigning, startVerify := current()
	rapid.Check(t, func(rt *rapid.T) {
		signing, verify := startSigning, slices.Clone(startVerify)
		now := w.clock.Now()
		type version struct {
			at   time.Time
			keys VerifyKeys
		}
		var files [3][]version // of each region's public keys, as they were written
		write := func() {
			for i, v := range verify {
				files[i] = append(files[i], version{now, v})
			}
		}
		write()
		files[0][0].at, files[1][0].at, files[2][0].at = time.Time{}, time.Time{}, time.Time{}
		signer := signing.Keys[0].Public("us-east")
		until := map[string]time.Time{} // when the last token of a key expires
		look := func() {
			until[signer.kid()] = now.Add(Life) // signed at the last moment
			signer = signing.Keys[0].Public("us-east")
			for i, v := range verify {
				if err := v.check(); err != nil {
					rt.Fatal(err)
				}
				if i == 0 && !slices.ContainsFunc(v, signer.same) {
					rt.Fatal("the region's own processes do not know the key that signs")
				}
			}
			until[signer.kid()] = now.Add(Life)
			for kid, end := range until {
				for i, versions := range files {
					for _, age := range []time.Duration{0, time.Minute + reloadEvery} {
						at := len(versions) - 1
						for versions[at].at.After(now.Add(-age)) {
							at--
						}
						if now.Before(end) && !slices.ContainsFunc(versions[at].keys, func(k VerifyKey) bool { return k.kid() == kid }) {
							rt.Fatalf("%s, as it was %s ago, does not accept %s, whose last token expires in %s", w.regions[i], age, kid, end.Sub(now))
						}
					}
				}
			}
		}
		for step := 0; ; step++ {
			r, err := Rotate("us-east", signing, verify, now, rand.Reader)
			if err != nil {
				rt.Fatal(err)
			}
			written := len(verify) + 1
			if step < 10 { // then nobody interrupts any more
				written = rapid.IntRange(0, written).Draw(rt, "files written")
			}
			if written > 0 {
				signing = r.Signing
			}
			copy(verify, r.Verify[:max(0, written-1)])
			write()
			whole := written == len(verify)+1
			if r.Stage == Retired && whole {
				break
			}
			if step > 20 {
				rt.Fatal("the rotation does not come to its end")
			}
			wait := time.Duration(rapid.IntRange(0, 700).Draw(rt, "seconds until the next call")) * time.Second
			if whole && rapid.Bool().Draw(rt, "wait as told") || step >= 10 {
				wait = max(0, r.Next.Sub(now))
			}
			now = now.Add(min(wait, reloadEvery))
			if wait >= reloadEvery { // else nobody has looked yet
				look()
				now = now.Add(wait - reloadEvery)
				look()
			}
		}
		now = now.Add(reloadEvery)
		look()
		if signing.Keys[0].ID == startSigning.Keys[0].ID || len(signing.Keys) != 1 {
			rt.Error("the old key signs still")
		}
		for i, v := range verify {
			if len(v) != len(w.regions) {
				rt.Errorf("%s has %d public keys", w.regions[i], len(v))
			}
		}
	})
	if signing, verify := current(); !reflect.DeepEqual(signing, startSigning) || !reflect.DeepEqual(verify, startVerify) {
		t.Error("what was given was changed")
	}
}

func TestRotateRefuses(t *testing.T) {
	w := newWorld(t, "us-east")
	signing, verify := w.signing["us-east"], w.verify["us-east"]
	three := SigningKeys{Keys: []SigningKey{newKey(t), newKey(t), newKey(t)}}
	namesake := newKey(t)
	namesake.ID = signing.Keys[0].ID
	for name, call := range map[string]func() (Rotation, error){
		"no files of public keys": func() (Rotation, error) { return Rotate("us-east", signing, nil, w.clock.Now(), rand.Reader) },
		"no signing keys": func() (Rotation, error) {
			return Rotate("us-east", SigningKeys{}, []VerifyKeys{verify}, w.clock.Now(), rand.Reader)
		},
		"three signing keys": func() (Rotation, error) {
			return Rotate("us-east", three, []VerifyKeys{verify}, w.clock.Now(), rand.Reader)
		},
		"an empty file": func() (Rotation, error) {
			return Rotate("us-east", signing, []VerifyKeys{verify, {}}, w.clock.Now(), rand.Reader)
		},
		"two keys of one name": func() (Rotation, error) {
			return Rotate("us-east", SigningKeys{Keys: []SigningKey{namesake}}, []VerifyKeys{verify}, w.clock.Now(), rand.Reader)
		},
		"the key of another region": func() (Rotation, error) {
			return Rotate("eu-west", signing, []VerifyKeys{verify}, w.clock.Now(), rand.Reader)
		},
	} {
		if r, err := call(); err == nil {
			t.Errorf("%s: got %v", name, r.Stage)
		}
	}
}
