package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	authv1 "antipode.example/api/gen/antipode/auth/v1"
	"antipode.example/platform/id"
)

// open are the services that anyone may call, without a look at credentials: a load balancer has none, and grpcurl asks before it has one.
var open = []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"} //nolint:gochecknoglobals // a constant that Go can't express

// Table says who may call what: what the .proto files of some services say, read once.
type Table struct {
	rules map[string]*rule // by "/package.Service/Method"
}

// rule is the option of one RPC.
type rule struct {
	access *authv1.Access
	owner  []protoreflect.FieldDescriptor // the path to the owner; nil when owners have no part in it
}

// NewTable reads the option antipode.auth.v1.access of every RPC of the named services ("antipode.user.v1.UserService"), whose generated code must be in the program. The error names every RPC without one, and every one
// that contradicts itself.
func NewTable(services ...string) (*Table, error) {
	var all []protoreflect.ServiceDescriptor
	for _, name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		s, ok := d.(protoreflect.ServiceDescriptor)
		if err != nil || !ok {
			return nil, fmt.Errorf("read who may call what: there is no service %s in this program", name)
		}
		all = append(all, s)
	}
	return tableOf(all)
}

func tableOf(services []protoreflect.ServiceDescriptor) (*Table, error) {
	t := &Table{rules: map[string]*rule{}}
	var errs []error
	for _, s := range services {
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			r, err := ruleOf(m)
			if err != nil {
				errs = append(errs, fmt.Errorf("read who may call what: %s: %w", m.FullName(), err))
			}
			t.rules[methodName(m)] = r
		}
	}
	return t, errors.Join(errs...)
}

func methodName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

func ruleOf(m protoreflect.MethodDescriptor) (*rule, error) {
	a, _ := proto.GetExtension(m.Options(), authv1.E_Access).(*authv1.Access)
	if a == nil {
		return nil, errors.New("it has no option (antipode.auth.v1.access)")
	}
	some := a.GetUser() || a.GetAdmin() || a.GetOwner() != nil || len(a.GetServices()) > 0
	switch {
	case !some && !a.GetAnyone():
		return nil, errors.New("its access names nobody")
	case some && a.GetAnyone():
		return nil, errors.New("its access names others beside anyone")
	case a.GetUser() && (a.GetAdmin() || a.GetOwner() != nil):
		return nil, errors.New("its access names the owner, or admins, beside every user")
	case slices.ContainsFunc(a.GetServices(), func(s string) bool { return !word(s) }):
		return nil, errors.New("its access names a service that has no name")
	case a.GetOwner() != nil && (m.IsStreamingClient() || m.IsStreamingServer()):
		return nil, errors.New("its access names an owner, and it is a stream: that opens before there is a request")
	}
	r := &rule{access: a}
	if a.GetOwner() == nil {
		return r, nil
	}
	in := m.Input()
	path := strings.Split(a.GetOwner().GetField(), ".")
	for i, name := range path {
		f := in.Fields().ByName(protoreflect.Name(name))
		last := i == len(path)-1
		if f == nil || f.Cardinality() == protoreflect.Repeated || last && f.Kind() != protoreflect.StringKind || !last && f.Message() == nil {
			return nil, fmt.Errorf("its owner field %q does not lead to a string of %s", a.GetOwner().GetField(), m.Input().FullName())
		}
		r.owner = append(r.owner, f)
		in = f.Message()
	}
	return r, nil
}

// allows decides for a caller. req is nil for a stream.
func (r *rule) allows(c Caller, req any) bool {
	a := r.access
	switch {
	case a.GetAnyone():
		return true
	case c.Service != "":
		return slices.Contains(a.GetServices(), c.Service)
	case c.Anonymous():
		return false
	case a.GetUser(), a.GetAdmin() && c.Admin():
		return true
	}
	return r.owner != nil && r.owns(c.User, req)
}

// owns reports whether a request names the user as the owner.
func (r *rule) owns(user id.ID, req any) bool {
	m, ok := req.(proto.Message)
	if !ok {
		return false
	}
	at := m.ProtoReflect()
	last := len(r.owner) - 1
	for _, f := range r.owner[:last] {
		at = at.Get(f).Message() // of an absent one, all fields are empty
	}
	text := at.Get(r.owner[last]).String()
	if text == "" {
		return r.access.GetOwner().GetEmptyIsCaller()
	}
	named, err := id.Parse(text)
	return err == nil && named == user
}

// Actor is somebody who calls: ServiceActor, or one of the constants.
type Actor string

// The actors.
const (
	// Anonymous has no token.
	Anonymous Actor = "anonymous"
	// Owner is a signed-in user whom the request names as the owner.
	Owner Actor = "owner"
	// User is a signed-in user whom the request does not name.
	User Actor = "user"
	// Admin is a user with the role "admin", whom the request does not name.
	Admin Actor = "admin"
)

// ServiceActor is a service.
func ServiceActor(name string) Actor { return Actor(servicePrefix + name) }

// Row says whether an actor may call an RPC.
type Row struct {
	Method  string // "/antipode.user.v1.UserService/GetUser"
	Actor   Actor
	Allowed bool
	// OwnerField is the path at which the request names its owner; empty when it names none. Then there is no row for Owner.
	OwnerField string
}

// Rows are the whole table, for tests to walk: each RPC with each actor, sorted by RPC. The services among the actors are those that any RPC of the table names, and "stranger", which none does.
func (t *Table) Rows() []Row {
	services := []string{"stranger"}
	var methods []string
	for m, r := range t.rules {
		methods = append(methods, m)
		services = append(services, r.access.GetServices()...)
	}
	slices.Sort(methods)
	slices.Sort(services)
	services = slices.Compact(services)
	var rows []Row
	for _, m := range methods {
		a := t.rules[m].access
		add := func(actor Actor, allowed bool) {
			rows = append(rows, Row{Method: m, Actor: actor, Allowed: allowed || a.GetAnyone(), OwnerField: a.GetOwner().GetField()})
		}
		add(Anonymous, false)
		add(User, a.GetUser())
		if a.GetOwner() != nil {
			add(Owner, true)
		}
		add(Admin, a.GetUser() || a.GetAdmin())
		for _, s := range services {
			add(ServiceActor(s), slices.Contains(a.GetServices(), s))
		}
	}
	return rows
}
