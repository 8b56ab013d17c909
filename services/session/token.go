package session

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

// Refresh is what a refresh token says: the session that it continues, and its place there. A region that has heard of neither can tell that it is genuine.
type Refresh struct {
	User, Session id.ID
	// Generation counts from 1, which the sign-in makes.
	Generation uint64
	// Nonce tells apart tokens of one generation that came from their parent by different requests.
	Nonce [nonceBytes]byte
}

const (
	nonceBytes     = 16
	refreshVersion = 1
	// maxRefreshText bounds the text, of which a key's name may be 255 bytes.
	maxRefreshText = 512
)

// ErrRefreshToken is wrapped by the errors of Open: the token is forged, cut short, or of another version or key.
var ErrRefreshToken = errors.New("refresh token is not valid")

// RefreshKeys make and read refresh tokens, and the children of tokens. The first key signs, all are accepted.
type RefreshKeys []causal.Key

// Seal is the token as URL-safe base64 of (version, length of the key's name, name, user, session, generation, nonce, HMAC-SHA-256 of all that).
func (k RefreshKeys) Seal(r Refresh) string {
	key := k[0]
	b := append([]byte{refreshVersion, byte(len(key.ID))}, key.ID...) //nolint:gosec // at most 255, as all keys
	b = r.append(b)
	return base64.RawURLEncoding.EncodeToString(append(b, sum(key, "antipode refresh token", b)...))
}

// append adds what a token says, in a form that has but one meaning.
func (r Refresh) append(b []byte) []byte {
	b = append(append(b, r.User[:]...), r.Session[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Generation)
	return append(b, r.Nonce[:]...)
}

const bodyBytes = 16 + 16 + 8 + nonceBytes

// Open reads what Seal has made.
func (k RefreshKeys) Open(text string) (Refresh, error) {
	if len(text) > maxRefreshText {
		return Refresh{}, fmt.Errorf("%w: %d characters", ErrRefreshToken, len(text))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return Refresh{}, fmt.Errorf("%w: %w", ErrRefreshToken, err)
	}
	if len(b) < 2 || b[0] != refreshVersion || len(b) != 2+int(b[1])+bodyBytes+sha256.Size {
		return Refresh{}, fmt.Errorf("%w: it is of another version, or not whole", ErrRefreshToken)
	}
	name, signed, mac := string(b[2:2+b[1]]), b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	for _, key := range k {
		if key.ID != name {
			continue
		}
		if !hmac.Equal(mac, sum(key, "antipode refresh token", signed)) {
			break
		}
		return readRefresh(signed[2+len(name):])
	}
	return Refresh{}, fmt.Errorf("%w: the signature is wrong", ErrRefreshToken)
}

func readRefresh(b []byte) (Refresh, error) {
	var r Refresh
	var err1, err2 error
	r.User, err1 = id.FromBytes(b[:16])
	r.Session, err2 = id.FromBytes(b[16:32])
	r.Generation = binary.BigEndian.Uint64(b[32:40])
	copy(r.Nonce[:], b[40:])
	if err := errors.Join(err1, err2); err != nil || r.Generation == 0 {
		return Refresh{}, fmt.Errorf("%w: it names no session (%w)", ErrRefreshToken, err)
	}
	return r, nil
}

// First is the token that a sign-in gives. With the idempotency key of the sign-in it is the same in every region; without one, salt makes it.
func (k RefreshKeys) First(user, session id.ID, salt string) Refresh {
	r := Refresh{User: user, Session: session, Generation: 1}
	copy(r.Nonce[:], sum(k.oldest(), "antipode first token", append(r.append(nil), salt...)))
	return r
}

// Child is what a token is exchanged for by requests with one idempotency key, or by those without any: the same in every region. It depends on the key, so that whoever stole the
// parent and uses it with another key gets another child, and is found out, in place of going along unseen.
func (k RefreshKeys) Child(parent Refresh, key string) Refresh {
	child := Refresh{User: parent.User, Session: parent.Session, Generation: parent.Generation + 1}
	copy(child.Nonce[:], sum(k.oldest(), "antipode child token", append(parent.append(nil), key...)))
	return child
}

// oldest is the key that nonces are made with. While keys are rotated, regions may sign with different ones for a moment; what they make must be the same. A nonce is no secret: that nobody
// can make a token is due to the signature.
func (k RefreshKeys) oldest() causal.Key { return k[len(k)-1] }

func sum(key causal.Key, purpose string, b []byte) []byte {
	m := hmac.New(sha256.New, key.Secret)
	m.Write(append([]byte(purpose), 0))
	m.Write(b)
	return m.Sum(nil)
}
