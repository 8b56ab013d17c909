package caller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	"antipode.example/platform/auth"
)

const (
	// renewAt is how much of an access token's life is left when it is renewed, and spare how much a request needs.
	renewAt, spare = auth.Life / 2, 2 * Limit
	// renewLimit is how long a renewal may take while the old token will do.
	renewLimit = 3 * Limit
	// young is the age below which a token that was refused is not renewed: it was not refused for its age.
	young = 10 * time.Second
)

// Session is a user who has signed in and stays so. It is safe for concurrent use.
type Session struct {
	client          *Client
	regions         []Region
	email, password string

	turn chan struct{} // held by whoever renews

	mu      sync.Mutex
	user    string
	access  string
	issued  time.Time // by the clock here, as expires
	expires time.Time
	refresh string
	key     string // of the refresh token's one use
}

// SignIn signs a user in, in the first of the regions that answers; every one of them will do later, too. An error that wraps ErrSignIn says that address or password are wrong.
func SignIn(ctx context.Context, regions []Region, email, password string) (*Session, error) {
	s := &Session{client: NewClient(), regions: regions, email: email, password: password, turn: make(chan struct{}, 1)}
	return s, s.signIn(ctx)
}

var (
	// ErrSignIn: nobody has this address and this password.
	ErrSignIn = errors.New("signing in is refused")
	// ErrEnded: a region does not take the refresh token any more.
	ErrEnded = errors.New("the session has ended")
)

// Renew renews the access token now, in the first of these regions that answers, by the refresh token and nothing else. An error that wraps ErrEnded says that the user is signed out; after any other one it may
// be called again.
func (s *Session) Renew(ctx context.Context, regions []Region) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("wait to renew an access token: %w", context.Cause(ctx))
	}
	defer func() { <-s.turn }()
	return s.exchange(ctx, regions)
}

// User is the user's id.
func (s *Session) User() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.user
}

// Do sends a request as the user. When the access token is refused it gets another one and asks once more: what was refused had no effect.
func (s *Session) Do(ctx context.Context, r Region, q Request) (Answer, error) {
	for again := false; ; again = true {
		authorization, err := s.Authorization(ctx)
		if err != nil {
			return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		a, err := s.client.Do(ctx, r, q.with(HeaderAuthorization, authorization))
		if err != nil || a.Status != http.StatusUnauthorized || again || !s.replaced(ctx, authorization) {
			return a, err
		}
	}
}

// Authorization is the value of the header of that name for a request now. Of all who ask, one renews the access token when half of its life is over, while the others go on with it.
func (s *Session) Authorization(ctx context.Context) (string, error) {
	access, left, _ := s.now()
	switch {
	case left > renewAt:
		return bearer(access), nil
	case left > spare:
		select {
		case s.turn <- struct{}{}:
		default:
			return bearer(access), nil
		}
		limited, cancel := context.WithTimeout(ctx, renewLimit)
		defer cancel()
		ctx = limited
	default:
		select {
		case s.turn <- struct{}{}:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for an access token: %w", context.Cause(ctx))
		}
	}
	defer func() { <-s.turn }()
	if access, left, _ = s.now(); left > renewAt {
		return bearer(access), nil // by whoever had the turn before
	}
	err := s.renew(ctx)
	if access, left, _ = s.now(); err != nil && left <= spare {
		return "", err
	}
	return bearer(access), nil // the old one, if need be
}

// replaced says that there is another access token than one that was refused.
func (s *Session) replaced(ctx context.Context, authorization string) bool {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-s.turn }()
	access, _, age := s.now()
	if bearer(access) != authorization {
		return true
	}
	return age > young && s.renew(ctx) == nil
}

func (s *Session) now() (access string, left, age time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.access, time.Until(s.expires), time.Since(s.issued)
}

// renew uses the refresh token, or the password when the session has ended. Whoever calls it has the turn.
func (s *Session) renew(ctx context.Context) error {
	err := s.exchange(ctx, s.regions)
	if errors.Is(err, ErrEnded) {
		return s.signIn(ctx)
	}
	return err
}

func (s *Session) exchange(ctx context.Context, regions []Region) error {
	s.mu.Lock()
	refresh, key := s.refresh, s.key
	s.mu.Unlock()
	a, err := s.ask(ctx, regions, "/v1/sessions:refresh", key, &sessionv1.RefreshSessionRequest{RefreshToken: refresh})
	if err != nil {
		return err
	}
	if a.Status == http.StatusUnauthorized {
		return fmt.Errorf("%w: %w", ErrEnded, a.Err())
	}
	return s.take(a)
}

func (s *Session) signIn(ctx context.Context) error {
	a, err := s.ask(ctx, s.regions, "/v1/sessions", rand.Text(), &sessionv1.CreateSessionRequest{Email: s.email, Password: s.password, DeviceName: "antipode caller"})
	if err != nil {
		return err
	}
	if a.Status == http.StatusUnauthorized {
		return fmt.Errorf("%w: %w", ErrSignIn, a.Err())
	}
	return s.take(a)
}

// ask makes a request that may be repeated in any region, by its key.
func (s *Session) ask(ctx context.Context, regions []Region, path, key string, message proto.Message) (Answer, error) {
	body, err := protojson.Marshal(message)
	if err != nil {
		return Answer{}, fmt.Errorf("write a request: %w", err)
	}
	return s.client.Anywhere(ctx, regions, Request{Method: http.MethodPost, Path: path, Body: string(body), Headers: map[string]string{HeaderKey: key}})
}

// take keeps what a region has answered.
func (s *Session) take(a Answer) error {
	in, err := read(a, &sessionv1.SignedIn{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user, s.access, s.refresh, s.key = in.GetSession().GetUserId(), in.GetAccessToken(), in.GetRefreshToken(), rand.Text()
	s.issued = time.Now()
	// The clock of the region that issued it may be wrong.
	s.expires = s.issued.Add(min(auth.Life, time.Until(in.GetAccessTokenExpireTime().AsTime())))
	return nil
}
