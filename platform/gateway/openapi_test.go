package gateway

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	sessionv1 "antipode.example/api/gen/antipode/session/v1"
	userv1 "antipode.example/api/gen/antipode/user/v1"
)

// TestOpenAPIMatchesRoutes: what the document lists is served, and what the .proto files bind to a path is listed.
func TestOpenAPIMatchesRoutes(t *testing.T) {
	f := start(t)
	a := f.do(t, "GET", "/openapi.json", "", nil)
	file, err := os.ReadFile("../../api/openapi/antipode.swagger.json")
	if err != nil || a.body != string(file) {
		t.Fatalf("the served document is not the file: %v", err)
	}
	if again := f.do(t, "GET", "/openapi.json", "", http.Header{"If-None-Match": {a.header.Get("Etag")}}); again.status != http.StatusNotModified {
		t.Errorf("with the etag: %d", again.status)
	}
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(file, &doc); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	parameter := regexp.MustCompile(`\{[^}]+\}`)
	for path, methods := range doc.Paths {
		for m := range methods {
			listed[strings.ToUpper(m)+" "+path] = true
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, parameter.ReplaceAllString(path, "x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		served := f.server.handler.methods(req)
		for m := range methods {
			if !slices.Contains(served, strings.ToUpper(m)) {
				t.Errorf("%s %s is in the document and not served: %v are", strings.ToUpper(m), path, served)
			}
		}
	}
	var bound []protoreflect.MethodDescriptor
	for _, methods := range []protoreflect.MethodDescriptors{
		userv1.File_antipode_user_v1_user_proto.Services().ByName("UserService").Methods(),
		sessionv1.File_antipode_session_v1_session_proto.Services().ByName("SessionService").Methods(),
		assetv1.File_antipode_asset_v1_asset_proto.Services().ByName("AssetService").Methods(),
	} {
		for i := range methods.Len() {
			bound = append(bound, methods.Get(i))
		}
	}
	for _, method := range bound {
		rule, _ := proto.GetExtension(method.Options(), annotations.E_Http).(*annotations.HttpRule)
		for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
			for m, path := range map[string]string{"GET": r.GetGet(), "POST": r.GetPost(), "PATCH": r.GetPatch(), "PUT": r.GetPut(), "DELETE": r.GetDelete()} {
				if path == "" {
					continue
				}
				if !listed[m+" "+path] {
					t.Errorf("%s %s is bound and not in the document", m, path)
				}
				delete(listed, m+" "+path)
			}
		}
	}
	if len(listed) > 0 {
		t.Errorf("in the document and bound to no method: %v", slices.Sorted(maps.Keys(listed)))
	}
}
