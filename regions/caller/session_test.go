package caller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

func signIn(t *testing.T, w *world) *Session {
	t.Helper()
	s, err := SignIn(t.Context(), w.regions, address, password)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// authorized wants the value of the header.
func authorized(t *testing.T, s *Session, want string) {
	t.Helper()
	if got, err := s.Authorization(t.Context()); err != nil || got != "Bearer "+want {
		t.Fatalf("the header is %q, %v, want %s", got, err, want)
	}
}

func TestAPasswordIsUsedOnce(t *testing.T) {
	w := newWorld(t)
	w.life = spare + time.Minute // half of its life is over
	s := signIn(t, w)
	for n := 2; n < 5; n++ {
		authorized(t, s, fmt.Sprintf("access%d", n))
	}
	if len(w.signIns) != 1 || len(w.refreshes) != 3 || s.User() != "ann" {
		t.Fatalf("signed in %v, renewed %v", w.signIns, w.refreshes)
	}
	for i, u := range w.refreshes {
		if u.token != fmt.Sprintf("refresh%d", i+1) || u.key == "" || i > 0 && u.key == w.refreshes[i-1].key {
			t.Errorf("renewal %d is %+v", i, u)
		}
	}
}

func TestAnAccessTokenThatIsGoodIsKept(t *testing.T) {
	w := newWorld(t)
	s := signIn(t, w)
	authorized(t, s, "access1")
	authorized(t, s, "access1")
}

func TestARefreshTokenIsUsedWithOneKey(t *testing.T) {
	w := newWorld(t)
	w.life = 0
	s := signIn(t, w)
	lost := 0
	w.refuse = func(region string, resp http.ResponseWriter, r *http.Request) bool {
		if lost++; lost > 3 {
			return false
		}
		w.refreshes = append(w.refreshes, use{region: region, key: r.Header.Get(HeaderKey)})
		fail(resp, http.StatusServiceUnavailable, "unavailable")
		return true
	}
	w.life = time.Hour
	authorized(t, s, "access2")
	if len(w.refreshes) != 4 {
		t.Fatalf("renewed by %v", w.refreshes)
	}
	for i, u := range w.refreshes {
		if u.key != w.refreshes[0].key || u.region != w.regions[i%2].Name {
			t.Errorf("try %d is %+v", i, u)
		}
	}
}

// What is still good is used while a renewal takes its time.
func TestOthersGoOnWhileOneRenews(t *testing.T) {
	w := newWorld(t)
	w.life = spare + time.Minute
	s := signIn(t, w)
	asked, answered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.refuse = func(_ string, _ http.ResponseWriter, _ *http.Request) bool {
		once.Do(func() { close(asked) })
		<-answered
		return false
	}
	w.life = time.Hour
	done := make(chan error)
	go func() {
		_, err := s.Authorization(t.Context())
		done <- err
	}()
	<-asked
	authorized(t, s, "access1")
	close(answered)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	authorized(t, s, "access2")
}

func TestASessionThatHasEndedIsBegunAnew(t *testing.T) {
	w := newWorld(t)
	w.life = 0
	s := signIn(t, w)
	w.life = time.Hour
	w.refuse = func(_ string, resp http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/sessions:refresh" {
			return false
		}
		fail(resp, http.StatusUnauthorized, "unauthenticated")
		return true
	}
	authorized(t, s, "access2")
	if len(w.signIns) != 2 {
		t.Errorf("signed in %v", w.signIns)
	}
}

func TestARenewalUsesNoPassword(t *testing.T) {
	w := newWorld(t)
	s := signIn(t, w)
	if err := s.Renew(t.Context(), w.regions[1:]); err != nil || len(w.refreshes) != 1 || w.refreshes[0].region != "west" {
		t.Errorf("%v, by %v", err, w.refreshes)
	}
	w.refuse = func(_ string, resp http.ResponseWriter, _ *http.Request) bool {
		fail(resp, http.StatusUnauthorized, "unauthenticated")
		return true
	}
	if err := s.Renew(t.Context(), w.regions); !errors.Is(err, ErrEnded) || len(w.signIns) != 1 {
		t.Errorf("%v, after %v", err, w.signIns)
	}
}

func TestARefusedTokenIsReplacedOnce(t *testing.T) {
	w := newWorld(t)
	s := signIn(t, w)
	good := "Bearer access2"
	var sent []string
	w.refuse = func(_ string, resp http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/users/ann" {
			return false
		}
		if sent = append(sent, r.Header.Get(HeaderAuthorization)); sent[len(sent)-1] != good {
			fail(resp, http.StatusUnauthorized, "unauthenticated")
		}
		return true
	}
	ask := func() Answer {
		a, err := s.Do(t.Context(), w.regions[0], Request{Method: http.MethodGet, Path: "/v1/users/ann"})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask(); a.Status != http.StatusUnauthorized || !a.Denied() || a.RequestID() != "r1" || len(sent) != 1 {
		t.Errorf("a token that has just been issued is renewed, or not refused: %+v, %v", a, sent)
	}
	s.issued = s.issued.Add(-2 * young)
	if a := ask(); a.Status != http.StatusOK || len(sent) != 3 {
		t.Errorf("an old token is not replaced: %+v, %v", a, sent)
	}
	good = "none"
	s.issued = s.issued.Add(-2 * young)
	if a := ask(); a.Status != http.StatusUnauthorized || len(sent) != 5 {
		t.Errorf("what is refused again is tried again: %+v, %v", a, sent)
	}
}

func TestAWrongPasswordIsSaidSo(t *testing.T) {
	w := newWorld(t)
	if _, err := SignIn(t.Context(), w.regions, address, "another one"); !errors.Is(err, ErrSignIn) || len(w.signIns) != 1 {
		t.Errorf("%v, after %v", err, w.signIns)
	}
}

func TestWithoutATokenNothingIsSent(t *testing.T) {
	w := newWorld(t)
	w.life = 0
	s := signIn(t, w)
	w.refuse = func(_ string, resp http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/sessions:refresh" {
			t.Errorf("asked for %s", r.URL)
		}
		fail(resp, http.StatusServiceUnavailable, "unavailable")
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), pause/2)
	defer cancel()
	if _, err := s.Do(ctx, w.regions[0], Request{Method: http.MethodGet, Path: "/v1/users/ann"}); !errors.Is(err, ErrNotSent) {
		t.Errorf("the error is %v", err)
	}
}
