package user

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/password"
)

// stored is a password as a record keeps it. Regions that set it without seeing each other leave one each, of which the greatest counts: so a password that a region hashes anew, because it has not heard yet
// that it was changed, does not come back.
type stored struct {
	// set is when it was set, and in the counter how often it was hashed anew since. It is zero for a password with which the user signed up: that is the oldest of all, and its region may be any.
	set  hlc.Stamp
	hash string
}

// String has the stamp in 16 hexadecimal digits, so that texts order as their stamps do.
func (p stored) String() string { return fmt.Sprintf("%016x:%s", uint64(p.set), p.hash) }

func readStored(text string) (stored, error) {
	stamp, hash, _ := strings.Cut(text, ":")
	set, err := strconv.ParseUint(stamp, 16, 64)
	if p := (stored{hlc.Stamp(set), hash}); err == nil && p.String() == text {
		return p, nil
	}
	return stored{}, errors.New("a stored password does not say when it was set")
}

// passwordOf is a user's password; ok is false for a user who has none.
func passwordOf(rec *userv1.UserRecord) (p stored, ok bool, err error) {
	if len(rec.GetPasswordHashes()) == 0 {
		return stored{}, false, nil
	}
	p, err = readStored(slices.Max(rec.GetPasswordHashes()))
	return p, err == nil, err
}

// setPassword makes a password the user's, above all that were.
func setPassword(rec *userv1.UserRecord, hash string, now time.Time) {
	var before hlc.Stamp
	for _, text := range rec.GetPasswordHashes() {
		if p, err := readStored(text); err == nil {
			before = max(before, p.set|hashedAnew)
		}
	}
	rec.PasswordHashes = []string{stored{hlc.Next(now, before), hash}.String()}
}

// hashedAnew are the bits that count how often.
const hashedAnew = 1<<16 - 1

// hash is what to store of a new password; what is wrong with it is a fault about the field user.password.
func (s *Service) hash(ctx context.Context, text string) (string, error) {
	hash, err := s.c.Passwords.Hash(ctx, text)
	return hash, ofUser(err)
}

// ofUser names the fields of a fault as the API's messages do.
func ofUser(err error) error {
	var f *fault.Error
	if errors.As(err, &f) {
		for i := range f.Violations {
			f.Violations[i].Field = "user." + f.Violations[i].Field
		}
	}
	return err
}

// withPassword is the record of a creation with its password. A creation with a key makes the same record wherever it is tried, so its salt comes from what names the request, under the secret that no caller
// knows, and is used for no other account. Once new hashes are made in another way, a repetition of an older request is another request (key_reused).
func (s *Service) withPassword(ctx context.Context, canonical string, c Creation) (*userv1.UserRecord, error) {
	if c.Password == nil {
		return c.Record, nil
	}
	var hash string
	var err error
	if c.Key == "" {
		hash, err = s.hash(ctx, *c.Password)
	} else {
		hash, err = s.c.Passwords.HashSalted(ctx, *c.Password, s.salt(canonical, c.Key))
		err = ofUser(err)
	}
	if err != nil {
		return nil, err
	}
	rec := proto.CloneOf(c.Record)
	rec.PasswordHashes = []string{stored{hash: hash}.String()}
	return rec, nil
}

// salt is that of the password of a creation with a key. Neither a canonical address nor a key has a zero byte.
func (s *Service) salt(canonical, key string) []byte {
	m := hmac.New(sha256.New, s.c.Idempotency.Secret)
	m.Write([]byte("antipode password salt\x00CreateUser\x00" + canonical + "\x00" + key))
	return m.Sum(nil)[:password.SaltBytes]
}
