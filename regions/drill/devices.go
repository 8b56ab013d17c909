package drill

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"antipode.example/regions/caller"
)

// Each device renews its access token about so often, and each time in another region; renewLimit bounds the search for one that answers.
const (
	renewEvery = time.Second
	renewLimit = time.Minute
)

// device is a user who is signed in somewhere, and stays so.
type device struct {
	home    Region
	session *caller.Session
	renewed int
}

// signIn signs a user up and in, in each region.
func (l *Load) signIn(ctx context.Context) error {
	for i, home := range l.cfg.Regions {
		email, password := strings.ToLower(cryptorand.Text())+"@example.com", cryptorand.Text()
		regions := slices.Concat(l.cfg.Regions[i:], l.cfg.Regions[:i])
		a, err := l.anyone.Anywhere(ctx, regions, caller.Request{
			Method: http.MethodPost, Path: "/v1/users", Body: fmt.Sprintf(`{"email":%q,"password":%q}`, email, password), Headers: map[string]string{caller.HeaderKey: cryptorand.Text()},
		})
		if err == nil {
			err = a.Err()
		}
		if err != nil {
			return fmt.Errorf("sign a user up: %w", err)
		}
		session, err := caller.SignIn(ctx, regions, email, password)
		if err != nil {
			return fmt.Errorf("sign a user in: %w", err)
		}
		l.devices = append(l.devices, &device{home: home, session: session})
	}
	return nil
}

// stay renews until ctx ends, or the user is signed out. What is under way then is done all the same.
func (l *Load) stay(ctx context.Context, d *device) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	own := context.WithoutCancel(ctx)
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limited, cancel := context.WithTimeout(own, renewLimit)
		at := turn % len(l.cfg.Regions)
		err := d.session.Renew(limited, slices.Concat(l.cfg.Regions[at:], l.cfg.Regions[:at]))
		cancel()
		switch {
		case errors.Is(err, caller.ErrEnded):
			l.mu.Lock()
			defer l.mu.Unlock()
			l.signedOut = append(l.signedOut, fmt.Sprintf("a user who signed in in %s, after %d renewals, at %.3f s: %v", d.home.Name, d.renewed, l.ledger.Now().Seconds(), err))
			return
		case err == nil:
			l.mu.Lock()
			d.renewed++
			l.mu.Unlock()
		}
	}
}

// SignedOut are the users who were signed out although nobody has ended their sessions: what must never happen. Renewed is how often the others got another access token.
func (l *Load) SignedOut() (who []string, renewed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.devices {
		renewed += d.renewed
	}
	return slices.Clone(l.signedOut), renewed
}
