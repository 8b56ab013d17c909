// Package authtest gives tests keys, tokens, and a walk through the table of who may call what.
package authtest

import (
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"antipode.example/platform/auth"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
)

// Keys are those of a world of one region.
func Keys(t testing.TB, region string, clock hlc.Clock) *auth.Keys {
	t.Helper()
	k, err := auth.NewSigningKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg := auth.KeysConfig{
		Region: region, SigningFile: filepath.Join(dir, "signing."+region+".json"), VerifyFile: filepath.Join(dir, "verify.json"), Clock: clock, Log: slog.New(slog.DiscardHandler),
	}
	for file, content := range map[string]any{cfg.SigningFile: auth.SigningKeys{Keys: []auth.SigningKey{k}}, cfg.VerifyFile: auth.VerifyKeys{k.Public(region)}} {
		b, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := auth.OpenKeys(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Token is an actor's token; empty for the anonymous. A user is the given one.
func Token(t testing.TB, keys *auth.Keys, actor auth.Actor, user id.ID) (token string) {
	t.Helper()
	grant := auth.Grant{User: user, Session: id.Keyed([]byte("authtest"), "session")}
	var err error
	switch service, ok := strings.CutPrefix(string(actor), string(auth.ServiceActor(""))); {
	case ok:
		token, _, err = keys.IssueService(service)
	case actor == auth.Admin:
		grant.Roles = []string{auth.RoleAdmin}
		token, _, err = keys.IssueUser(grant)
	case actor != auth.Anonymous:
		token, _, err = keys.IssueUser(grant)
	}
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Walk calls every unary RPC of a service as every actor, with a request that is empty but for its owner: who may not call is to be refused, and who may is to get past the guard. want says
// by method who may call, a second time: whoever changes the .proto file has to look at the test. conn leads to a server with a guard that knows keys.
func Walk(t *testing.T, conn grpc.ClientConnInterface, keys *auth.Keys, service string, want map[string][]auth.Actor) {
	t.Helper()
	table, err := auth.NewTable(service)
	if err != nil {
		t.Fatal(err)
	}
	caller, other := id.Keyed([]byte("authtest"), "caller"), id.Keyed([]byte("authtest"), "other")
	allowed := map[string][]auth.Actor{}
	for _, row := range table.Rows() {
		name := strings.TrimPrefix(row.Method, "/"+service+"/")
		if row.Allowed {
			allowed[name] = append(allowed[name], row.Actor)
		} else if _, ok := allowed[name]; !ok {
			allowed[name] = nil
		}
		method := find(t, row.Method)
		if method.IsStreamingClient() || method.IsStreamingServer() {
			continue
		}
		t.Run(name+" by "+string(row.Actor), func(t *testing.T) {
			req, resp := message(t, method.Input()), message(t, method.Output())
			if row.OwnerField != "" {
				named := other
				if row.Actor == auth.Owner {
					named = caller
				}
				setOwner(req.ProtoReflect(), strings.Split(row.OwnerField, "."), named.String())
			}
			ctx := t.Context()
			if token := Token(t, keys, row.Actor, caller); token != "" {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
			}
			kind := fault.Kind("")
			if f := fault.FromStatus(conn.Invoke(ctx, row.Method, req, resp)); f != nil {
				kind = f.Kind
			}
			refusal := fault.Forbidden
			if row.Actor == auth.Anonymous {
				refusal = fault.Unauthenticated
			}
			if row.Allowed && (kind == fault.Forbidden || kind == fault.Unauthenticated) || !row.Allowed && kind != refusal {
				t.Errorf("allowed: %t; the answer is %q", row.Allowed, kind)
			}
		})
	}
	for name := range want {
		if _, ok := allowed[name]; !ok {
			t.Errorf("%s has no RPC %s", service, name)
		}
	}
	for name := range allowed {
		slices.Sort(allowed[name])
		if expect := slices.Sorted(slices.Values(want[name])); !slices.Equal(allowed[name], expect) {
			t.Errorf("%s: the .proto file lets in %v, the test %v", name, allowed[name], expect)
		}
	}
}

func find(t *testing.T, method string) protoreflect.MethodDescriptor {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")))
	m, ok := d.(protoreflect.MethodDescriptor)
	if err != nil || !ok {
		t.Fatalf("%s is no method: %v", method, err)
	}
	return m
}

func message(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// setOwner sets a string field by its path.
func setOwner(m protoreflect.Message, path []string, text string) {
	f := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	if len(path) == 1 {
		m.Set(f, protoreflect.ValueOfString(text))
		return
	}
	setOwner(m.Mutable(f).Message(), path[1:], text)
}
