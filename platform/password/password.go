// Package password turns passwords into what may be stored, and compares.
//
// It hashes with argon2id (RFC 9106) and the parameters that OWASP recommends: 19 MiB, two passes, one lane. What is stored is a string in the PHC format, which names its own parameters, so that they
// can be raised: NeedsRehash says of which strings the password should be hashed anew when its owner signs in.
//
// Guarantees: comparing takes the same time for right and wrong passwords, and for accounts that do not exist when VerifyNobody is called for them. No more memory is used at a time than for the
// configured number of hashes; who would have to wait longer than a bound is told to come back. Hashing and comparing take turns: however many passwords are to be hashed, which anybody may ask for who signs up, one that
// is to be compared waits for no more of them than are made at a time. A string that is not ours costs nothing and is an error, never a match.
//
// A password is 8 to 1024 bytes of UTF-8, and is compared in Unicode's NFC form, so that it does not matter which keyboard wrote an accent. What a good password is, is not this package's business.
//
// Not covered: argon2 cannot be interrupted, so a hash that was begun is finished although its caller has gone away. Strings with other parameters take another time, which tells
// that an account exists, and how old its password is, until they are hashed anew.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/text/unicode/norm"

	"antipode.example/platform/fault"
)

// Bounds of a password, in bytes.
const (
	MinBytes = 8
	MaxBytes = 1024
)

// SaltBytes is how long a salt is.
const SaltBytes = 16

// What new hashes are made with.
const (
	memory  = 19 << 10 // KiB
	passes  = 2
	lanes   = 1
	saltLen = SaltBytes
	hashLen = 32
)

// What is accepted of stored strings: they come from other regions and other versions, and must not be able to ask for more than this.
const (
	maxMemory  = 64 << 10 // KiB
	maxPasses  = 8
	maxLanes   = 4
	maxSaltLen = 64
	maxHashLen = 64
	maxString  = 256
)

// ErrEncoding is wrapped by the errors about strings that are no hash of this package's.
var ErrEncoding = errors.New("stored password is not readable")

// Config is what a Hasher needs. The zero value is usable.
type Config struct {
	// Concurrent is how many hashes are made at a time, each of 19 MiB; 0 means one for each core.
	Concurrent int
	// Wait bounds how long a caller waits for his turn; 0 means 1 s.
	Wait time.Duration
}

// Hasher hashes and compares. It is safe for concurrent use.
type Hasher struct {
	wait   time.Duration
	budget int64 // KiB
	free   *semaphore.Weighted
	turns  *semaphore.Weighted // of those who have a password hashed: only so many of them wait for memory
	nobody parsed
}

// New makes a hasher.
func New(cfg Config) *Hasher {
	if cfg.Concurrent <= 0 {
		cfg.Concurrent = runtime.GOMAXPROCS(0)
	}
	if cfg.Wait <= 0 {
		cfg.Wait = time.Second
	}
	h := &Hasher{wait: cfg.Wait, budget: memory * int64(cfg.Concurrent), nobody: fresh(make([]byte, saltLen))} // its hash is that of no password that anyone knows
	h.free = semaphore.NewWeighted(h.budget)
	h.turns = semaphore.NewWeighted(int64(cfg.Concurrent))
	return h
}

// Hash is what to store of a password, with a salt of its own. Errors: a fault of kind Invalid that names the field "password" when it is shorter or longer than it may be, or no UTF-8; Unavailable, with the time
// after which to try again, when there are too many to hash.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, SaltBytes)
	rand.Read(salt)
	return h.HashSalted(ctx, password, salt)
}

// HashSalted is Hash with a given salt of SaltBytes, for what has to come out alike wherever it is made: the same password and salt make the same text, for as long as new hashes are made with the same
// parameters. The salt must be one that nobody can foresee who does not know a secret, and be used for one account alone.
func (h *Hasher) HashSalted(ctx context.Context, password string, salt []byte) (string, error) {
	switch {
	case len(salt) != SaltBytes:
		return "", fmt.Errorf("hash a password: the salt has %d bytes, and must have %d", len(salt), SaltBytes)
	case len(password) < MinBytes || len(password) > MaxBytes:
		return "", fault.New(fault.Invalid, "the request is not valid").With("password", "must be %d to %d bytes long", MinBytes, MaxBytes)
	case !utf8.ValidString(password):
		return "", fault.New(fault.Invalid, "the request is not valid").With("password", "must be UTF-8")
	}
	p := fresh(salt)
	waiting, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	if err := h.turns.Acquire(waiting, 1); err != nil {
		return "", h.busy(ctx, err)
	}
	defer h.turns.Release(1)
	sum, err := h.sum(ctx, waiting, password, p)
	if err != nil {
		return "", err
	}
	p.hash = sum
	return p.String(), nil
}

// Verify reports whether stored is the hash of password. Errors: Unavailable, as for Hash; ErrEncoding when stored is not readable.
func (h *Hasher) Verify(ctx context.Context, password, stored string) (bool, error) {
	p, err := parse(stored)
	if err != nil {
		return false, err
	}
	return h.verify(ctx, password, p)
}

// VerifyNobody takes the time and memory of Verify, for an account that does not exist. The answer to both callers is then the same: that the password is wrong. Errors: Unavailable, as for Hash.
func (h *Hasher) VerifyNobody(ctx context.Context, password string) error {
	_, err := h.verify(ctx, password, h.nobody)
	return err
}

func (h *Hasher) verify(ctx context.Context, password string, p parsed) (bool, error) {
	if password == "" || len(password) > MaxBytes || !utf8.ValidString(password) {
		return false, nil // nobody's password, whoever asks
	}
	waiting, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	sum, err := h.sum(ctx, waiting, password, p)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, p.hash) == 1, nil
}

// sum hashes when there is memory for it, within the time of waiting.
func (h *Hasher) sum(ctx, waiting context.Context, password string, p parsed) ([]byte, error) {
	need := min(int64(p.memory), h.budget)
	if err := h.free.Acquire(waiting, need); err != nil {
		return nil, h.busy(ctx, err)
	}
	defer h.free.Release(need)
	return argon2.IDKey(norm.NFC.Bytes([]byte(password)), p.salt, p.passes, p.memory, p.lanes, uint32(len(p.hash))), nil //nolint:gosec // at most maxHashLen
}

// busy says why a caller did not get his turn.
func (h *Hasher) busy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("wait for memory to hash a password: %w", ctx.Err())
	}
	return fault.New(fault.Unavailable, "too many passwords are being checked: try again").After(h.wait).Because(err)
}

// NeedsRehash reports whether a stored string was made with other parameters than new ones are, or is not readable.
func NeedsRehash(stored string) bool {
	p, err := parse(stored)
	return err != nil || p.memory != memory || p.passes != passes || p.lanes != lanes || len(p.salt) != saltLen || len(p.hash) != hashLen
}

// parsed is a string in the PHC format: $argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>.
type parsed struct {
	memory, passes uint32
	lanes          uint8
	salt, hash     []byte
}

// fresh has the parameters of new hashes, and room for one.
func fresh(salt []byte) parsed {
	return parsed{memory: memory, passes: passes, lanes: lanes, salt: salt, hash: make([]byte, hashLen)}
}

// String is canonical: parse accepts no other text for the same hash.
func (p parsed) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.lanes,
		base64.RawStdEncoding.EncodeToString(p.salt), base64.RawStdEncoding.EncodeToString(p.hash))
}

func parse(stored string) (parsed, error) {
	bad := func(what string) (parsed, error) { return parsed{}, fmt.Errorf("%w: %s", ErrEncoding, what) }
	if len(stored) > maxString {
		return bad("it is too long")
	}
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return bad("it is no argon2id string of version 19")
	}
	var p parsed
	var n [3]uint64
	parameters := strings.Split(parts[3], ",")
	if len(parameters) != len(n) {
		return bad("it has other parameters")
	}
	for i, name := range []string{"m=", "t=", "p="} {
		text, ok := strings.CutPrefix(parameters[i], name)
		v, err := strconv.ParseUint(text, 10, 32)
		if !ok || err != nil || strconv.FormatUint(v, 10) != text {
			return bad("its parameters are not numbers")
		}
		n[i] = v
	}
	// RFC 9106 §3.1: at least 8 KiB for each lane.
	if n[2] < 1 || n[2] > maxLanes || n[0] < 8*n[2] || n[0] > maxMemory || n[1] < 1 || n[1] > maxPasses {
		return bad("its parameters are out of bounds")
	}
	p.memory, p.passes, p.lanes = uint32(n[0]), uint32(n[1]), uint8(n[2]) //nolint:gosec // bounded just now
	var err [2]error
	p.salt, err[0] = base64.RawStdEncoding.Strict().DecodeString(parts[4])
	p.hash, err[1] = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if errors.Join(err[:]...) != nil || len(p.salt) < 8 || len(p.salt) > maxSaltLen || len(p.hash) < 16 || len(p.hash) > maxHashLen {
		return bad("its salt or its hash is not one")
	}
	if p.String() != stored { // base64 decoders skip line breaks
		return bad("it is not canonical")
	}
	return p, nil
}
