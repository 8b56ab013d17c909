package rpc

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"

	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// Names of what travels beside a message: gRPC metadata keys, and HTTP headers of the same name.
const (
	HeaderToken          = "antipode-token"      //nolint:gosec // the name of a header; both ways
	HeaderDurability     = "antipode-durability" // both ways
	HeaderRead           = "antipode-read"       // request
	HeaderIdempotencyKey = "idempotency-key"     // request
	HeaderAuthorization  = "authorization"       // request; read by whoever is Access
	HeaderRequestID      = "x-request-id"        // both ways
	HeaderTraceParent    = "traceparent"         // request
	HeaderTraceState     = "tracestate"          // request
	HeaderForwardedFor   = "x-forwarded-for"     // request; set by the load balancer, see SourceOf
	HeaderStale          = "antipode-stale"      // response
	HeaderCausal         = "antipode-causal"     // response
	HeaderLost           = "antipode-lost"       // response
)

// maxHeaderText bounds idempotency keys and request ids, in characters.
const maxHeaderText = 128

// ReadMode says what a read may answer when this region does not have yet what the token covers.
type ReadMode string

// The read modes.
const (
	ReadWait    ReadMode = "wait"     // wait up to the bound, then refuse (default)
	ReadStaleOK ReadMode = "stale-ok" // answer at once with what is here, marked
)

// Durability says where a write must be before it is answered; in a response, where it is.
type Durability string

// The durability classes.
const (
	DurabilityLocal  Durability = "local"  // on two disks of this region (default)
	DurabilityRemote Durability = "remote" // applied by another region too
)

// Call is what travels beside the message of one request. The fields are what the caller sent, checked; they are not to be changed. The
// methods say what goes back; they are safe for concurrent use.
type Call struct {
	// Token is what the caller has seen; never nil. It is read with Token.Vector and Token.HLC; Observe adds to it only once the
	// answer is sealed, so it stays the request's token for as long as the handler runs.
	Token *causal.Token
	// Read is ReadWait unless the caller asked for something else.
	Read ReadMode
	// Durability is DurabilityLocal unless the caller asked for something else.
	Durability Durability
	// IdempotencyKey is empty or 1 to 128 printable ASCII characters.
	IdempotencyKey string
	// RequestID names the request in logs; never empty. It is the caller's if that is 1 to 128 printable ASCII characters.
	RequestID string
	// Source is the address of the client, as SourceOf finds it; empty outside of a request.
	Source string

	sent metadata.MD // as it came
	back metadata.MD // what goes back, once the handler has returned

	mu      sync.Mutex
	seen    []observation
	lost    []loss
	reached Durability
	stale   bool
	unmet   bool
}

type observation struct {
	service string
	user    id.ID
	vector  causal.Vector
	stamp   hlc.Stamp
}

// loss is what a token covered, and no region has: of each replica, the writes above those that are here.
type loss struct {
	service    string
	user       id.ID
	seen, here causal.Vector
}

func (l loss) names() []string {
	var names []string
	for r, n := range l.seen {
		names = append(names, fmt.Sprintf("%s/%s/%s:%d-%d", l.service, l.user, r, l.here[r]+1, n))
	}
	slices.Sort(names)
	return names
}

type callKey struct{}

// NewCall is a call with no token and the defaults, for tests and for work that no client asked for.
func NewCall() *Call {
	return &Call{Token: &causal.Token{}, Read: ReadWait, Durability: DurabilityLocal, RequestID: rand.Text()}
}

// NewContext puts a call into a context.
func NewContext(ctx context.Context, c *Call) context.Context {
	return context.WithValue(ctx, callKey{}, c)
}

// FromContext is the request's call. Outside a request it is a new one with the defaults, so it is never nil.
func FromContext(ctx context.Context) *Call {
	if c, ok := ctx.Value(callKey{}).(*Call); ok {
		return c
	}
	return NewCall()
}

// Forward is a context for a call to another service on this request's behalf: it carries the request's name, its source and its causal token, so that what is answered covers what the caller has seen. What
// the other service shows has to be observed here, too.
func (c *Call) Forward(ctx context.Context) context.Context {
	pairs := []string{HeaderRequestID, c.RequestID}
	if c.Source != "" {
		pairs = append(pairs, HeaderForwardedFor, c.Source)
	}
	if t := c.sent[HeaderToken]; len(t) == 1 {
		pairs = append(pairs, HeaderToken, t[0])
	}
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// Observe says that the answer shows a user's data up to vector and stamp: the token in the response covers it. Call it once for each user
// that the answer shows, also for one that it says does not exist (its vector, if there is one), and after each write. Vectors are read
// after the handler has returned: hand over one that nobody changes.
func (c *Call) Observe(service string, user id.ID, vector causal.Vector, stamp hlc.Stamp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, observation{service, user, vector, stamp})
}

// Lose says that writes of a user which the token covers are lost for ever: of each replica in seen, those above what is here, up to what the token says. The answer
// names them, and the token that goes back doesn't cover them.
func (c *Call) Lose(service string, user id.ID, seen, here causal.Vector) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = append(c.lost, loss{service, user, seen, here})
}

// SetStale marks an answer that does not cover the token.
func (c *Call) SetStale() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = true
}

// SetCausalUnmet marks a write that could not wait for what the token covers.
func (c *Call) SetCausalUnmet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unmet = true
}

// SetDurability says where a write is; every successful write says it.
func (c *Call) SetDurability(reached Durability) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reached = reached
}

// read fills c from the request's metadata. A bad value is a fault of kind Invalid that names the header.
func (c *Call) read(md metadata.MD, sealer *causal.Sealer) error {
	bad := fault.New(fault.Invalid, "a header is not valid")
	one := func(name string) string {
		v := md[name]
		if len(v) > 1 {
			bad = bad.With(name, "must be given once, is given %d times", len(v))
			return ""
		}
		if len(v) == 0 {
			return ""
		}
		return v[0]
	}
	switch v := ReadMode(one(HeaderRead)); v {
	case "":
	case ReadWait, ReadStaleOK:
		c.Read = v
	default:
		bad = bad.With(HeaderRead, "must be %q or %q", ReadWait, ReadStaleOK)
	}
	switch v := Durability(one(HeaderDurability)); v {
	case "":
	case DurabilityLocal, DurabilityRemote:
		c.Durability = v
	default:
		bad = bad.With(HeaderDurability, "must be %q or %q", DurabilityLocal, DurabilityRemote)
	}
	switch v, given := one(HeaderIdempotencyKey), len(md[HeaderIdempotencyKey]) == 1; {
	case !given:
	case !printable(v):
		bad = bad.With(HeaderIdempotencyKey, "must be 1 to %d printable ASCII characters", maxHeaderText)
	default:
		c.IdempotencyKey = v
	}
	if text := one(HeaderToken); text != "" && sealer != nil {
		t, err := sealer.Open(text)
		if err != nil {
			bad = bad.With(HeaderToken, "is not a token of this service: send back, unchanged, the last one that you received, or none").Because(err)
		} else {
			c.Token = t
		}
	}
	if len(bad.Violations) > 0 {
		return bad
	}
	return nil
}

// seal is what goes back beside the answer. The handler must have returned.
func (c *Call) seal(sealer *causal.Sealer, ok bool) metadata.MD {
	c.mu.Lock()
	defer c.mu.Unlock()
	md := make(metadata.MD, 4)
	var lost []string
	for _, l := range c.lost {
		to := make(causal.Vector, len(l.seen))
		for r := range l.seen {
			to[r] = l.here[r]
		}
		c.Token.Lower(l.service, l.user, to)
		lost = append(lost, l.names()...)
	}
	c.lost = nil
	if len(lost) > 0 { // with an error too: the token goes back with it
		md[HeaderLost] = []string{strings.Join(slices.Compact(lost), ", ")}
	}
	if sealer != nil {
		for _, o := range c.seen {
			c.Token.Observe(o.service, o.user, o.vector, o.stamp)
		}
		c.seen = nil
		md[HeaderToken] = []string{sealer.Seal(c.Token)}
	}
	if !ok {
		return md // how good an answer is, is said only of answers
	}
	if c.unmet {
		md[HeaderCausal] = []string{"unmet"}
	}
	if c.stale {
		md[HeaderStale] = []string{"true"}
	}
	if c.reached != "" {
		md[HeaderDurability] = []string{string(c.reached)}
	}
	return md
}

// printable reports whether s is 1 to 128 characters from space to tilde.
func printable(s string) bool {
	if s == "" || len(s) > maxHeaderText {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
