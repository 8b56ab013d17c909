package caller

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	userv1 "antipode.example/api/gen/antipode/user/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/hlc"
)

// operatorLimit is how long an operator waits for a region that answers.
const operatorLimit = time.Minute

// operatorName is the service as which operators call; the API says what that may.
const operatorName = "operator"

// Operator is whoever can read the keys of a region.
type Operator struct {
	keys   *auth.Keys
	client *Client
}

// OpenOperator reads the keys with which a region signs. An error wraps fs.ErrPermission when the caller may not read them, and fs.ErrNotExist when there are none.
func OpenOperator(keysDir, region string) (*Operator, error) {
	keys, err := auth.OpenKeys(auth.KeysConfig{
		Region: region, SigningFile: filepath.Join(keysDir, "signing."+region+".json"), VerifyFile: filepath.Join(keysDir, "verify.json"),
		Clock: hlc.System{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, fmt.Errorf("call as an operator: %w", err)
	}
	return &Operator{keys: keys, client: NewClient()}, nil
}

// Admin is a user with the role of an administrator.
type Admin struct {
	ID    string `json:"id"`
	Email string `json:"email"`
	// Created says that the user was signed up, with the password that was asked for; the password of one who was there already stays.
	Created bool `json:"created"`
}

// ErrStranger: the address belongs to a user who was there already. Anybody may sign up with any address, so that user need not be whom the operator means.
var ErrStranger = errors.New("the address belongs to a user who was there already, and need not be whom you mean")

// MakeAdmin signs a user up, with a password that it asks for, and makes the user an administrator. It may be repeated. A user who was there already is made one only if existing says so; else the error
// wraps ErrStranger. Every region may answer it.
func (o *Operator) MakeAdmin(ctx context.Context, regions []Region, email string, existing bool, password func() (string, error)) (Admin, error) {
	m := &making{operator: o, regions: regions}
	user, err := m.find(ctx, email)
	created := false
	if errors.Is(err, errNoUser) {
		var secret string
		if secret, err = password(); err != nil {
			return Admin{}, err
		}
		if user, created, err = m.signUp(ctx, email, secret); err != nil {
			return Admin{}, err
		}
	}
	if err != nil {
		return Admin{}, err
	}
	if !slices.Contains(user.GetRoles(), auth.RoleAdmin) {
		if !created && !existing {
			return Admin{}, fmt.Errorf("user %s: %w", user.GetId(), ErrStranger)
		}
		if user, err = m.promote(ctx, user); err != nil {
			return Admin{}, err
		}
	}
	return Admin{ID: user.GetId(), Email: user.GetEmail(), Created: created}, nil
}

// Administrator makes an administrator whose address and password nobody else knows, with the keys of the first of the regions, and signs in as that.
func Administrator(ctx context.Context, keysDir string, regions []Region) (*Session, error) {
	if len(regions) == 0 {
		return nil, errors.New("make an administrator: there are no regions")
	}
	o, err := OpenOperator(keysDir, regions[0].Name)
	if err != nil {
		return nil, err
	}
	email, password := "admin-"+strings.ToLower(rand.Text())+"@example.com", rand.Text()
	if _, err := o.MakeAdmin(ctx, regions, email, false, func() (string, error) { return password, nil }); err != nil {
		return nil, fmt.Errorf("make an administrator: %w", err)
	}
	return SignIn(ctx, regions, email, password)
}

// errNoUser: the address belongs to nobody.
var errNoUser = errors.New("the address belongs to nobody")

// making is one MakeAdmin.
type making struct {
	operator *Operator
	regions  []Region
	seen     string // the causal token: a region that has not heard of the user yet is not to answer that there is none
}

// call makes a request as the operator.
func (m *making) call(ctx context.Context, q Request) (Answer, error) {
	token, _, err := m.operator.keys.IssueService(operatorName)
	if err != nil {
		return Answer{}, err
	}
	return m.send(ctx, q.with(HeaderAuthorization, bearer(token)))
}

func (m *making) send(ctx context.Context, q Request) (Answer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, operatorLimit, fmt.Errorf("not within %s", operatorLimit))
	defer cancel()
	a, err := m.operator.client.Anywhere(ctx, m.regions, q.with(HeaderToken, m.seen))
	if err != nil {
		return Answer{}, err
	}
	if token := a.Header.Get(HeaderToken); token != "" {
		m.seen = token
	}
	return a, nil
}

func (m *making) find(ctx context.Context, email string) (*userv1.User, error) {
	a, err := m.call(ctx, Request{Method: http.MethodGet, Path: "/v1/users:lookup?" + url.Values{"email": {email}}.Encode()})
	switch {
	case err != nil:
		return nil, err
	case a.Status == http.StatusNotFound:
		return nil, errNoUser
	}
	return read(a, &userv1.User{})
}

// signUp makes the user; created is false when somebody else has done so meanwhile.
func (m *making) signUp(ctx context.Context, email, password string) (user *userv1.User, created bool, err error) {
	body, err := protojson.Marshal(&userv1.User{Email: email, Password: &password})
	if err != nil {
		return nil, false, fmt.Errorf("write a user: %w", err)
	}
	a, err := m.send(ctx, Request{Method: http.MethodPost, Path: "/v1/users", Body: string(body), Headers: map[string]string{HeaderKey: rand.Text()}})
	if err != nil {
		return nil, false, err
	}
	if a.Reason() == "already_exists" {
		user, err = m.await(ctx, email)
		return user, false, err
	}
	user, err = read(a, &userv1.User{})
	return user, true, err
}

// await finds a user who is known to be somewhere.
func (m *making) await(ctx context.Context, email string) (*userv1.User, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, operatorLimit, fmt.Errorf("not within %s", operatorLimit))
	defer cancel()
	for {
		user, err := m.find(ctx, email)
		if !errors.Is(err, errNoUser) {
			return user, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the user who has the address: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func (m *making) promote(ctx context.Context, user *userv1.User) (*userv1.User, error) {
	body, err := protojson.Marshal(&userv1.SetUserRolesRequest{Roles: append(user.GetRoles(), auth.RoleAdmin)})
	if err != nil {
		return nil, fmt.Errorf("write roles: %w", err)
	}
	a, err := m.call(ctx, Request{Method: http.MethodPost, Path: "/v1/users/" + user.GetId() + ":setRoles", Body: string(body)})
	if err != nil {
		return nil, err
	}
	return read(a, &userv1.User{})
}

func bearer(token string) string { return "Bearer " + token }

// read decodes an answer of status 200.
func read[M proto.Message](a Answer, into M) (M, error) {
	if err := a.Err(); err != nil {
		return into, err
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(a.Body, into); err != nil {
		return into, fmt.Errorf("read what %s answers: %w", a.Region, err)
	}
	return into, nil
}
