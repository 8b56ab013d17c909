package caller

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	userv1 "antipode.example/api/gen/antipode/user/v1"
)

func operator(t *testing.T, w *world) *Operator {
	t.Helper()
	o, err := OpenOperator(w.keysDir, "east")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestTheFirstAdmin(t *testing.T) {
	w := newWorld(t)
	asked := 0
	secret := func() (string, error) { asked++; return password, nil }
	for n := range 2 {
		a, err := operator(t, w).MakeAdmin(t.Context(), w.regions, address, false, secret)
		if err != nil || a != (Admin{ID: "ann", Email: address, Created: n == 0}) {
			t.Fatalf("time %d: %+v, %v", n+1, a, err)
		}
	}
	if asked != 1 || w.setRoles != 1 || w.user.GetPassword() != password || !slices.Equal(w.user.GetRoles(), []string{"admin"}) {
		t.Errorf("asked %d times for a password, set roles %d times; the user is %v", asked, w.setRoles, w.user)
	}
}

func TestAUserWhoIsThereKeepsThePassword(t *testing.T) {
	w := newWorld(t)
	w.user = &userv1.User{Id: "ann", Email: address, Password: new(password)}
	asked := func() (string, error) { t.Error("asked for a password"); return "", nil }
	if a, err := operator(t, w).MakeAdmin(t.Context(), w.regions, address, false, asked); !errors.Is(err, ErrStranger) || w.setRoles != 0 {
		t.Errorf("a user who need not be the operator's: %+v, %v", a, err)
	}
	a, err := operator(t, w).MakeAdmin(t.Context(), w.regions, address, true, asked)
	if err != nil || a.Created || w.setRoles != 1 || w.user.GetPassword() != password {
		t.Errorf("%+v, %v; the user is %v", a, err, w.user)
	}
}

// Somebody else has the address by the time, and a region does not know of it yet.
func TestAnAddressThatIsTakenMeanwhile(t *testing.T) {
	w := newWorld(t)
	looks := 0
	w.refuse = func(_ string, resp http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/users:lookup" {
			return false
		}
		if looks++; looks > 2 {
			return false
		}
		w.user = &userv1.User{Id: "ann", Email: address, Password: new("hers")}
		fail(resp, http.StatusNotFound, "not_found")
		return true
	}
	a, err := operator(t, w).MakeAdmin(t.Context(), w.regions, address, false, func() (string, error) { return password, nil })
	if !errors.Is(err, ErrStranger) || w.setRoles != 0 || w.user.GetPassword() != "hers" || looks != 3 {
		t.Errorf("%+v, %v after %d looks; the user is %v", a, err, looks, w.user)
	}
}

func TestAnyRegionMakesAnAdmin(t *testing.T) {
	w := newWorld(t)
	w.refuse = func(region string, resp http.ResponseWriter, r *http.Request) bool {
		if region != "east" {
			return false
		}
		fail(resp, http.StatusServiceUnavailable, "clock")
		return true
	}
	if _, err := operator(t, w).MakeAdmin(t.Context(), w.regions, address, false, func() (string, error) { return password, nil }); err != nil {
		t.Error(err)
	}
	w.refuse = func(_ string, resp http.ResponseWriter, r *http.Request) bool {
		fail(resp, http.StatusServiceUnavailable, "clock")
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*pause+pause/2)
	defer cancel()
	if _, err := operator(t, w).MakeAdmin(ctx, w.regions, address, false, nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "answers 503 clock: because (request r1)") {
		t.Errorf("where no region answers: %v", err)
	}
}

func TestWhatAnOperatorIsRefusedIsSaid(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t) // with other keys
	_, err := operator(t, other).MakeAdmin(t.Context(), w.regions, address, false, nil)
	if err == nil || !strings.Contains(err.Error(), "east answers 401 unauthenticated: because (request r1)") {
		t.Errorf("the error is %v", err)
	}
	_, err = operator(t, w).MakeAdmin(t.Context(), w.regions, address, false, func() (string, error) { return "", fs.ErrClosed })
	if !errors.Is(err, fs.ErrClosed) || w.user != nil {
		t.Errorf("without a password: %v", err)
	}
}

func TestAnAdministratorOfOnesOwn(t *testing.T) {
	w := newWorld(t)
	w.refuse = func(_ string, resp http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/sessions" {
			return false
		}
		w.give(resp)
		return true
	}
	s, err := Administrator(t.Context(), w.keysDir, w.regions)
	if err != nil || s.email != w.user.GetEmail() || s.password != w.user.GetPassword() || !slices.Equal(w.user.GetRoles(), []string{"admin"}) {
		t.Errorf("%v; the user is %v", err, w.user)
	}
	if _, err := Administrator(t.Context(), w.keysDir, nil); err == nil {
		t.Error("there is one without regions")
	}
}

func TestKeysThatAreNotThere(t *testing.T) {
	if _, err := OpenOperator(t.TempDir(), "east"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}

func TestWhenAnAnswerIsWaitedFor(t *testing.T) {
	for after, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "soon": 0} {
		a := Answer{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {after}}}
		if got := a.retryAfter(); got != want || !a.passing() {
			t.Errorf("after %q: %s", after, got)
		}
	}
}
