package password

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/argon2"

	"antipode.example/platform/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const good = "correct horse"

func hash(t *testing.T, h *Hasher, password string) string {
	t.Helper()
	stored, err := h.Hash(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestVerify(t *testing.T) {
	h := New(Config{})
	stored := hash(t, h, good)
	if again := hash(t, h, good); again == stored {
		t.Error("two hashes of one password are equal: no salt")
	}
	if !strings.HasPrefix(stored, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("stored as %q", stored)
	}
	accented := hash(t, h, "caf\u00e9 noir") // é as one character
	older := parsed{memory: 8 << 10, passes: 1, lanes: 2, salt: []byte("saltsalt"), hash: make([]byte, 16)}
	older.hash = argon2.IDKey([]byte(good), older.salt, older.passes, older.memory, older.lanes, 16)
	for _, tt := range []struct {
		name, password, stored string
		want                   bool
	}{
		{"right", good, stored, true},
		{"wrong", "correct hors", stored, false},
		{"empty", "", stored, false},
		{"too long", strings.Repeat("x", MaxBytes+1), stored, false},
		{"no UTF-8", "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8", stored, false},
		{"other keyboard", "cafe\u0301 noir", accented, true}, // e and a combining accent
		{"other parameters", good, older.String(), true},
		{"other parameters, wrong", "correct hors", older.String(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := h.Verify(t.Context(), tt.password, tt.stored); err != nil || got != tt.want {
				t.Errorf("got %t, %v", got, err)
			}
		})
	}
	if NeedsRehash(stored) || !NeedsRehash(older.String()) || !NeedsRehash("") {
		t.Error("NeedsRehash is wrong")
	}
	if err := h.VerifyNobody(t.Context(), good); err != nil {
		t.Error(err)
	}
}

func TestBounds(t *testing.T) {
	h := New(Config{})
	for _, bad := range []string{"", "seven77", strings.Repeat("x", MaxBytes+1), "\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8"} {
		_, err := h.Hash(t.Context(), bad)
		if f := fault.From(err); f == nil || f.Kind != fault.Invalid || f.Violations[0].Field != "password" {
			t.Errorf("a password of %d bytes: %v", len(bad), err)
		}
	}
	for _, ok := range []string{"eight888", strings.Repeat("x", MaxBytes)} {
		if matches, err := h.Verify(t.Context(), ok, hash(t, h, ok)); err != nil || !matches {
			t.Errorf("a password of %d bytes: %t, %v", len(ok), matches, err)
		}
	}
}

// A hash with a given salt can be made again, anywhere; and only with that salt.
func TestSalted(t *testing.T) {
	h, elsewhere := New(Config{}), New(Config{Concurrent: 1})
	salted := func(h *Hasher, password, salt string) string {
		t.Helper()
		stored, err := h.HashSalted(t.Context(), password, []byte(salt))
		if err != nil {
			t.Fatal(err)
		}
		return stored
	}
	const salt = "sixteen bytes ok"
	stored := salted(h, "caf\u00e9 noir", salt)
	for name, again := range map[string]string{"elsewhere": salted(elsewhere, "caf\u00e9 noir", salt), "other keyboard": salted(h, "cafe\u0301 noir", salt)} {
		if again != stored {
			t.Errorf("%s: %q, first %q", name, again, stored)
		}
	}
	for name, other := range map[string]string{"password": salted(h, "caf\u00e9 blanc", salt), "salt": salted(h, "caf\u00e9 noir", "sixteen bytes no")} {
		if other == stored {
			t.Errorf("another %s makes the same hash", name)
		}
	}
	if ok, err := h.Verify(t.Context(), "caf\u00e9 noir", stored); err != nil || !ok || NeedsRehash(stored) {
		t.Errorf("verified: %t, %v", ok, err)
	}
	for _, bad := range []string{"", salt[1:], salt + "x"} {
		if _, err := h.HashSalted(t.Context(), good, []byte(bad)); err == nil {
			t.Errorf("a salt of %d bytes was taken", len(bad))
		}
	}
	_, err := h.HashSalted(t.Context(), "seven77", []byte(salt))
	if f := fault.From(err); f == nil || f.Kind != fault.Invalid {
		t.Errorf("a short password: %v", err)
	}
}

func TestUnreadable(t *testing.T) {
	h := New(Config{})
	stored := hash(t, h, good)
	for name, bad := range map[string]string{
		"empty":            "",
		"plain":            good,
		"bcrypt":           "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
		"argon2i":          strings.Replace(stored, "argon2id", "argon2i", 1),
		"version":          strings.Replace(stored, "v=19", "v=16", 1),
		"much memory":      strings.Replace(stored, "m=19456", "m=4194304", 1),
		"little memory":    strings.Replace(stored, "m=19456", "m=7", 1),
		"many passes":      strings.Replace(stored, "t=2", "t=1000000", 1),
		"no passes":        strings.Replace(stored, "t=2", "t=0", 1),
		"many lanes":       strings.Replace(stored, "p=1", "p=255", 1),
		"no lanes":         strings.Replace(stored, "p=1", "p=0", 1),
		"other order":      strings.Replace(stored, "m=19456,t=2", "t=2,m=19456", 1),
		"leading zero":     strings.Replace(stored, "t=2", "t=02", 1),
		"overflow":         strings.Replace(stored, "t=2", "t=4294967298", 1),
		"line break":       stored[:len(stored)-3] + "\n" + stored[len(stored)-3:],
		"no salt":          "$argon2id$v=19$m=19456,t=2,p=1$$" + stored[strings.LastIndex(stored, "$")+1:],
		"no hash":          stored[:strings.LastIndex(stored, "$")+1],
		"something behind": stored + "$x",
		"long":             stored + strings.Repeat("A", 300),
	} {
		t.Run(name, func(t *testing.T) {
			if matches, err := h.Verify(t.Context(), good, bad); matches || !errors.Is(err, ErrEncoding) {
				t.Errorf("got %t, %v", matches, err)
			}
			if !NeedsRehash(bad) {
				t.Error("is not to be hashed anew")
			}
		})
	}
}

// A caller who finds no memory free waits, but not for long, and is told to come back; nobody gets in before his turn.
func TestMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(Config{Concurrent: 2, Wait: 3 * time.Second})
		if err := h.free.Acquire(t.Context(), 2*memory); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err := h.Hash(t.Context(), good)
		if f := fault.From(err); f == nil || f.Kind != fault.Unavailable || f.RetryAfter != 3*time.Second {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("waited %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.VerifyNobody(ctx, good); fault.From(err).Kind != fault.Deadline {
			t.Errorf("got %v for a caller in a hurry", err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := h.Hash(t.Context(), good); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // it waits
		h.free.Release(memory)
		wg.Wait()
		h.free.Release(memory)
		// One that asks for more than there is gets all there is.
		huge := parsed{memory: maxMemory, passes: 1, lanes: 1, salt: make([]byte, saltLen), hash: make([]byte, hashLen)}
		if _, err := New(Config{Concurrent: 1}).Verify(t.Context(), good, huge.String()); err != nil {
			t.Error(err)
		}
	})
}

// Whatever is stored, reading it does not crash, and what is accepted is the only text for what it says.
func FuzzParse(f *testing.F) {
	f.Add(fresh(make([]byte, saltLen)).String())
	f.Add("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA")
	f.Add("$argon2id$v=19$m=8,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, stored string) {
		p, err := parse(stored)
		if err != nil {
			if !errors.Is(err, ErrEncoding) {
				t.Errorf("%q: %v", stored, err)
			}
			return
		}
		if p.String() != stored || p.memory > maxMemory || p.passes > maxPasses || p.lanes > maxLanes || p.lanes == 0 || len(p.hash) == 0 {
			t.Errorf("%q was read as %q", stored, p)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	h := New(Config{})
	stored, err := h.Hash(b.Context(), good)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := h.Verify(b.Context(), good, stored); err != nil || !ok {
			b.Fatal(ok, err)
		}
	}
}

// However many sign up at the same time, those who sign in wait for a few of them only.
func TestThoseWhoSignUpKeepNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const crowd = 12
		h := New(Config{Concurrent: 2})
		if err := h.free.Acquire(t.Context(), 2*memory); err != nil { // by those who are at it
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var hashed atomic.Int64
		for range crowd {
			wg.Go(func() {
				if _, err := h.Hash(t.Context(), good); err != nil {
					t.Error(err)
				}
				hashed.Add(1)
			})
		}
		synctest.Wait()
		wg.Go(func() {
			if err := h.VerifyNobody(t.Context(), good); err != nil {
				t.Error(err)
			}
			if n := hashed.Load(); n > 4 {
				t.Errorf("%d of %d who came before were hashed first", n, crowd)
			}
		})
		synctest.Wait() // all wait
		h.free.Release(memory)
		wg.Wait()
		h.free.Release(memory)
	})
}
