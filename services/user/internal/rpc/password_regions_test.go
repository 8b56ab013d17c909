package rpc

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/state"
	"antipode.example/platform/store"
	"antipode.example/services/user"
)

// Two regions that do not see each other set the password of one user.
func (p *pair) testPasswordsInTwoRegions(t *testing.T) {
	t.Run("at once", p.testPasswordsAtOnce)
	t.Run("hashed anew where the change is not known", p.testRehashAgainstChange)
	t.Run("a keyed sign-up", p.testKeyedPasswordElsewhere)
	t.Run("roles", p.testRolesInTwoRegions)
}

// The one that was set later is the user's, and the sessions of both regions have ended.
func (p *pair) testPasswordsAtOnce(t *testing.T) {
	for n, later := range p.both() {
		made := p.east.create(t, withPassword(third))
		u, path := parse(t, made)
		email := made.field("email")
		p.meet(t, u)
		texts := []string{first, second}
		began := []*userv1.Credential{p.west.right(t, email, third)}
		later.clock.forward(10 * time.Second)
		for i, f := range p.both() {
			f.setPassword(t, path, texts[i])
			began = append(began, f.right(t, email, texts[i]))
		}
		later.clock.forward(-10 * time.Second)
		p.meet(t, u)
		for _, f := range p.both() {
			f.wrong(t, email, third)
			f.wrong(t, email, texts[1-n])
			if c := f.wantEnded(t, email, texts[n], began...); len(c.GetRevocations()) != 2 {
				t.Errorf("the notes of two regions have become %v", c.GetRevocations())
			}
			if found := must(f.store.Conflicts(t.Context(), u, store.ConflictCursor{}, 10))(t); len(found) > 0 {
				t.Errorf("something of it is told to people: %v", found)
			}
		}
		p.both()[1-n].setPassword(t, path, third)
		p.meet(t, u)
		for _, f := range p.both() {
			f.wrong(t, email, texts[n])
			f.wantEnded(t, email, third, began...)
			if _, rec := f.record(t, u); len(rec.GetPasswordHashes()) != 1 {
				t.Errorf("left is %q", rec.GetPasswordHashes())
			}
		}
	}
}

// A region that has not heard of a change takes the old password, and hashes it anew; that does not bring it back.
func (p *pair) testRehashAgainstChange(t *testing.T) {
	made := p.east.create(t, withPassword(first))
	u, path := parse(t, made)
	email, k := made.field("email"), state.Key{Type: user.RecordType, ID: u}
	must(p.east.store.Write(t.Context(), store.WriteRequest{User: u, Keys: []state.Key{k}, Change: func(d *state.Draft) error {
		m, _, err := d.Get(k)
		if err != nil {
			return err
		}
		rec, _ := m.(*userv1.UserRecord)
		rec.PasswordHashes = []string{"0000000000000000:" + olderHash}
		return d.Put(k, rec)
	}}))(t)
	p.meet(t, u)
	p.east.setPassword(t, path, second)
	p.west.clock.forward(10 * time.Second)
	defer p.west.clock.forward(-10 * time.Second)
	began := p.west.right(t, email, older)
	if _, rec := p.west.record(t, u); strings.Contains(rec.GetPasswordHashes()[0], olderHash) {
		t.Fatal("it was not hashed anew")
	}
	p.meet(t, u)
	for _, f := range p.both() {
		f.wrong(t, email, older)
		f.wantEnded(t, email, second, began)
	}
}

// A keyed sign-up makes the same password wherever it is tried, and another one is another request.
func (p *pair) testKeyedPasswordElsewhere(t *testing.T) {
	sign := func(f *fixture, email, text string) answer {
		t.Helper()
		return f.signUp(t, email, withPassword(text), "k")
	}
	email := newEmail()
	made, again := sign(p.east, email, first), sign(p.west, email, first)
	if made.status != http.StatusOK || again.field("id") != made.field("id") {
		t.Fatalf("%s, elsewhere %s", made.body, again.body)
	}
	u, path := parse(t, made)
	_, east := p.east.record(t, u)
	_, west := p.west.record(t, u)
	if !slices.Equal(east.GetPasswordHashes(), west.GetPasswordHashes()) {
		t.Errorf("stored as %q, elsewhere as %q", east.GetPasswordHashes(), west.GetPasswordHashes())
	}
	p.meet(t, u)
	for _, f := range p.both() {
		f.right(t, email, first)
		if _, rec := f.record(t, u); len(rec.GetPasswordHashes()) != 1 {
			t.Errorf("the regions together have %q", rec.GetPasswordHashes())
		}
		if a := sign(f, email, second); a.field("reason") != "key_reused" {
			t.Errorf("another password: %d %s", a.status, a.body)
		}
	}
	p.west.setPassword(t, path, second)
	p.meet(t, u)

	// The sign-up is repeated where neither it nor a change has arrived.
	email = newEmail()
	made = sign(p.east, email, first)
	u, path = parse(t, made)
	p.east.setPassword(t, path, second)
	if again := sign(p.west, email, first); again.field("id") != made.field("id") {
		t.Errorf("repeated: %d %s", again.status, again.body)
	}
	began := p.west.right(t, email, first)
	p.meet(t, u)
	for _, f := range p.both() {
		f.wrong(t, email, first)
		f.wantEnded(t, email, second, began)
	}
}

// A role is taken away in one region while the other one changes the password: both notes stay, and the role does not come back.
func (p *pair) testRolesInTwoRegions(t *testing.T) {
	made := p.east.create(t, withPassword(first))
	u, path := parse(t, made)
	email := made.field("email")
	p.east.ok(t, http.MethodPost, path+":setRoles", `{"roles":["admin"]}`)
	p.meet(t, u)
	p.east.ok(t, http.MethodPost, path+":setRoles", `{}`)
	p.west.setPassword(t, path, second)
	began := []*userv1.Credential{p.east.right(t, email, first), p.west.right(t, email, second)}
	p.meet(t, u)
	for _, f := range p.both() {
		if c := f.wantEnded(t, email, second, began...); len(c.GetRevocations()) != 2 || len(c.GetRoles()) > 0 {
			t.Errorf("together: %v", c)
		}
	}
}
