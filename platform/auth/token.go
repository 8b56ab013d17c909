package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

const (
	// Life is how long an access token is valid.
	Life = 5 * time.Minute
	// Skew is how far the clocks of two regions may be apart without a token being refused for it: a region whose clock is half a second off the median takes no writes, and so
	// signs nobody in.
	Skew = time.Second
	// MaxTokenBytes bounds an access token. Its vectors grow with the number of regions and their incarnations; a token of three regions has 500 bytes.
	MaxTokenBytes = 8 << 10
)

const (
	audience      = "antipode"
	servicePrefix = "service:"
	// RoleAdmin is the role of those who may do everything that users may.
	RoleAdmin = "admin"

	maxRoles = 16
)

// Names of the services whose vectors a token carries.
const (
	ServiceSession = "session"
	ServiceUser    = "user"
)

// Every error of Verify wraps ErrToken; those that a client, or an operator, can act on wrap one of the others too.
var (
	ErrToken = errors.New("access token is not valid")
	// ErrExpired: the token was good.
	ErrExpired = errors.New("it has expired")
	// ErrUnknownKey: no key of that name is in this region's verify.json. Many of these mean that a rotation went wrong.
	ErrUnknownKey = errors.New("its key is not known")
)

// Grant is what an access token says of a user.
type Grant struct {
	User    id.ID
	Session id.ID
	// Roles are at most 16 words.
	Roles []string
	// SessionVector and UserVector are the user's vectors in the session service and in the user service when the session was made, its password verified: what that sign-in knew of.
	// A token that is issued later for the same session carries the same two.
	SessionVector, UserVector causal.Vector
}

// Claims are what a token says that was found valid.
type Claims struct {
	// Region issued the token.
	Region string
	// Service is the name of the service that calls; empty in a user's token. In a service's token nothing else is set but the times.
	Service string
	Grant
	Issued, Expires time.Time
}

// payload is the JSON of a token.
type payload struct {
	Issuer        string   `json:"iss"`
	Audience      string   `json:"aud"`
	Subject       string   `json:"sub"`
	Session       string   `json:"sid,omitempty"`
	IssuedAt      int64    `json:"iat"` // seconds since 1970, as exp
	Expires       int64    `json:"exp"`
	Roles         []string `json:"roles,omitempty"`
	SessionVector vector   `json:"sv,omitempty"`
	UserVector    vector   `json:"uv,omitempty"`
}

// vector is a version vector by the replicas' text form.
type vector map[string]uint64

// GetExpirationTime and the methods that follow are for the library's checks.
func (p *payload) GetExpirationTime() (*jwt.NumericDate, error) { return date(p.Expires), nil }

// GetIssuedAt is iat.
func (p *payload) GetIssuedAt() (*jwt.NumericDate, error) { return date(p.IssuedAt), nil }

// GetNotBefore is nothing: a token is valid from when it was issued.
func (p *payload) GetNotBefore() (*jwt.NumericDate, error) { return nil, nil }

// GetIssuer is iss.
func (p *payload) GetIssuer() (string, error) { return p.Issuer, nil }

// GetSubject is sub.
func (p *payload) GetSubject() (string, error) { return p.Subject, nil }

// GetAudience is aud.
func (p *payload) GetAudience() (jwt.ClaimStrings, error) { return jwt.ClaimStrings{p.Audience}, nil }

func date(seconds int64) *jwt.NumericDate { return jwt.NewNumericDate(time.Unix(seconds, 0)) }

func newParser(clock hlc.Clock) *jwt.Parser {
	return jwt.NewParser(
		// Neither "none", nor a public key taken for a secret.
		jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
		// One token is one text.
		jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(clock.Now),
		jwt.WithLeeway(Skew),
		jwt.WithExpirationRequired(),
		// Refuses what is from the future.
		jwt.WithIssuedAt(),
		jwt.WithAudience(audience),
	)
}

// IssueUser makes a user's access token. It fails for a grant without user or session, for one that makes a token larger than MaxTokenBytes, and in a process that only verifies.
func (k *Keys) IssueUser(g Grant) (token string, expires time.Time, err error) {
	if g.User.IsZero() || g.Session.IsZero() || len(g.Roles) > maxRoles || !words(g.Roles) {
		return "", time.Time{}, errors.New("issue an access token: it needs a user, a session, and at most 16 roles that are words")
	}
	return k.issue(payload{
		Subject: g.User.String(), Session: g.Session.String(), Roles: g.Roles,
		SessionVector: textOf(g.SessionVector), UserVector: textOf(g.UserVector),
	})
}

// IssueService makes the token by which a service calls others. ServiceCredentials does so by itself.
func (k *Keys) IssueService(name string) (token string, expires time.Time, err error) {
	if !word(name) {
		return "", time.Time{}, fmt.Errorf("issue an access token: %q is no name of a service", name)
	}
	return k.issue(payload{Subject: servicePrefix + name})
}

func (k *Keys) issue(p payload) (string, time.Time, error) {
	s := k.signer.Load()
	if s == nil {
		return "", time.Time{}, errors.New("issue an access token: this process has no signing key")
	}
	now := k.cfg.Clock.Now()
	p.Issuer, p.Audience, p.IssuedAt = k.cfg.Region, audience, now.Unix()
	p.Expires = p.IssuedAt + int64(Life/time.Second)
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &p)
	t.Header["kid"] = s.kid
	text, err := t.SignedString(s.private)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign an access token: %w", err)
	}
	if len(text) > MaxTokenBytes {
		return "", time.Time{}, fmt.Errorf("issue an access token: it would have %d bytes, more than %d", len(text), MaxTokenBytes)
	}
	return text, time.Unix(p.Expires, 0), nil
}

// Verify reads a token that a region issued, while it is valid. It knows nothing of revocations.
func (k *Keys) Verify(text string) (*Claims, error) {
	if len(text) > MaxTokenBytes {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrToken, MaxTokenBytes)
	}
	var p payload
	_, err := k.parser.ParseWithClaims(text, &p, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		key, ok := k.verify.Load().keys[kid]
		switch {
		case !ok:
			return nil, ErrUnknownKey
		case key.region != p.Issuer:
			return nil, errors.New("its key belongs to another region than the one that it names")
		case t.Header["crit"] != nil:
			return nil, errors.New("it has extensions that must be understood") // RFC 7515 §4.1.11; the library does not look
		}
		return key.public, nil
	})
	if errors.Is(err, jwt.ErrTokenExpired) {
		return nil, fmt.Errorf("%w: %w: %w", ErrToken, ErrExpired, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	c, err := p.claims()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return c, nil
}

// claims reads what was signed. A region signs nothing that this refuses.
func (p *payload) claims() (*Claims, error) {
	c := &Claims{Region: p.Issuer, Issued: time.Unix(p.IssuedAt, 0), Expires: time.Unix(p.Expires, 0)}
	if life := c.Expires.Sub(c.Issued); life <= 0 || life > Life {
		return nil, fmt.Errorf("it is valid for %s", life)
	}
	if name, ok := strings.CutPrefix(p.Subject, servicePrefix); ok {
		if c.Service = name; !word(name) || p.Session != "" || len(p.Roles)+len(p.SessionVector)+len(p.UserVector) > 0 {
			return nil, errors.New("a service's token has a name and nothing else")
		}
		return c, nil
	}
	var err [4]error
	c.User, err[0] = id.Parse(p.Subject)
	c.Session, err[1] = id.Parse(p.Session)
	c.SessionVector, err[2] = p.SessionVector.parse()
	c.UserVector, err[3] = p.UserVector.parse()
	c.Roles = p.Roles
	if len(p.Roles) > maxRoles || !words(p.Roles) {
		return nil, errors.New("its roles are not valid")
	}
	return c, errors.Join(err[:]...)
}

func words(all []string) bool {
	return !slices.ContainsFunc(all, func(s string) bool { return !word(s) })
}

func textOf(v causal.Vector) vector {
	text := make(vector, len(v))
	for r, n := range v {
		if n > 0 {
			text[r.String()] = n
		}
	}
	return text
}

func (v vector) parse() (causal.Vector, error) {
	parsed := make(causal.Vector, len(v))
	for text, n := range v {
		r, err := causal.ParseReplica(text)
		if err != nil {
			return nil, err
		}
		if r.String() != text || n == 0 {
			return nil, fmt.Errorf("%q is not how a replica is written, or has no writes", text)
		}
		parsed[r] = n
	}
	return parsed, nil
}
