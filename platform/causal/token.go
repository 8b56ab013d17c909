package causal

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// MaxEntries is how many (service, user) pairs a token holds; the entry that was observed longest ago goes first.
const MaxEntries = 16

// maxTokenBytes bounds what Open decodes.
const maxTokenBytes = 16 << 10

const tokenVersion = 1

// ErrToken is wrapped by every error of Open: the token is forged, cut short, or of another version or key.
var ErrToken = errors.New("causal token is not valid")

// Token is what a client has seen. The zero Token has seen nothing. Its guarantees (read your writes, monotonic reads, monotonic writes,
// writes follow reads) hold for the pairs that are in it.
type Token struct {
	// HLC is the greatest stamp seen.
	HLC     hlc.Stamp
	entries []entry // oldest first
}

type entry struct {
	service string
	user    id.ID
	vector  Vector
}

// Vector is what the bearer has seen of a user in a service; nil when nothing is known. It must not be changed.
func (t *Token) Vector(service string, user id.ID) Vector {
	for _, e := range t.entries {
		if e.service == service && e.user == user {
			return e.vector
		}
	}
	return nil
}

// Users are the users of a service of whom the bearer has seen something, longest ago first.
func (t *Token) Users(service string) []id.ID {
	var users []id.ID
	for _, e := range t.entries {
		if e.service == service {
			users = append(users, e.user)
		}
	}
	return users
}

// Observe adds that the bearer has now seen v of a user, up to stamp s, and makes this the newest entry.
func (t *Token) Observe(service string, user id.ID, v Vector, s hlc.Stamp) {
	t.HLC = max(t.HLC, s)
	seen := v.Clone()
	t.entries = slices.DeleteFunc(t.entries, func(e entry) bool {
		if e.service != service || e.user != user {
			return false
		}
		seen.Raise(e.vector)
		return true
	})
	t.entries = append(t.entries, entry{service, user, seen})
	if over := len(t.entries) - MaxEntries; over > 0 {
		t.entries = slices.Delete(t.entries, 0, over)
	}
}

// Lower takes back, of what the bearer has seen of a user, the writes of some replicas above the given numbers. What is not above stays.
func (t *Token) Lower(service string, user id.ID, to Vector) {
	for i, e := range t.entries {
		if e.service != service || e.user != user {
			continue
		}
		lowered := e.vector.Clone()
		for r, n := range to {
			switch {
			case lowered[r] <= n:
			case n == 0:
				delete(lowered, r)
			default:
				lowered[r] = n
			}
		}
		t.entries[i].vector = lowered
	}
}

// Key is a MAC key with a name. Names are 1 to 255 bytes.
type Key struct {
	ID     string
	Secret []byte // at least 32 bytes
}

// Sealer turns tokens into opaque text and back. It is safe for concurrent use.
type Sealer struct {
	keys []Key
}

// NewSealer seals with the first key and opens with any of them, so keys can be rotated. It refuses an empty list and short secrets.
func NewSealer(keys ...Key) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key for causal tokens")
	}
	for _, k := range keys {
		if len(k.ID) == 0 || len(k.ID) > 255 || len(k.Secret) < 32 {
			return nil, fmt.Errorf("causal token key %q: the name needs 1 to 255 bytes, the secret at least 32", k.ID)
		}
	}
	return &Sealer{keys: slices.Clone(keys)}, nil
}

// Seal is the token as URL-safe base64 of (length of key id, key id, HMAC-SHA-256, protobuf). Entries that would make it longer than Open
// accepts are left out, oldest first.
func (s *Sealer) Seal(t *Token) string {
	p := &replicationv1.Token{Version: tokenVersion, Hlc: uint64(t.HLC)}
	for _, e := range t.entries {
		p.Entries = append(p.Entries, &replicationv1.TokenEntry{Service: e.service, UserId: e.user[:], Vector: e.vector.Proto()})
	}
	for {
		text := s.seal(p)
		if len(text) <= maxTokenBytes || len(p.Entries) == 0 {
			return text
		}
		p.Entries = p.Entries[1:]
	}
}

func (s *Sealer) seal(p *replicationv1.Token) string {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("encode causal token: %v", err)) // service names are valid UTF-8
	}
	k := s.keys[0]
	out := append([]byte{byte(len(k.ID))}, k.ID...) //nolint:gosec // NewSealer bounds the name
	out = append(out, mac(k, body)...)
	out = append(out, body...)
	return base64.RawURLEncoding.EncodeToString(out)
}

// Open reads what Seal made. Empty text is the zero token.
func (s *Sealer) Open(text string) (*Token, error) {
	if text == "" {
		return &Token{}, nil
	}
	if len(text) > maxTokenBytes {
		return nil, fmt.Errorf("%w: longer than %d characters", ErrToken, maxTokenBytes)
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: not base64url", ErrToken)
	}
	if len(b) < 1 || len(b) < 1+int(b[0])+sha256.Size {
		return nil, fmt.Errorf("%w: too short", ErrToken)
	}
	name, rest := string(b[1:1+b[0]]), b[1+b[0]:]
	sum, body := rest[:sha256.Size], rest[sha256.Size:]
	i := slices.IndexFunc(s.keys, func(k Key) bool { return k.ID == name })
	if i < 0 || !hmac.Equal(sum, mac(s.keys[i], body)) {
		return nil, fmt.Errorf("%w: wrong signature", ErrToken)
	}
	p := &replicationv1.Token{}
	if err := proto.Unmarshal(body, p); err != nil || p.GetVersion() != tokenVersion {
		return nil, fmt.Errorf("%w: unknown version", ErrToken)
	}
	t := &Token{HLC: hlc.Stamp(p.GetHlc())}
	for _, e := range p.GetEntries() {
		user, err := id.FromBytes(e.GetUserId())
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrToken, err)
		}
		t.Observe(e.GetService(), user, VectorOf(e.GetVector()), 0)
	}
	return t, nil
}

func mac(k Key, body []byte) []byte {
	m := hmac.New(sha256.New, k.Secret)
	m.Write([]byte("antipode causal token\x00"))
	m.Write([]byte(k.ID))
	m.Write(body)
	return m.Sum(nil)
}
