package app

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"antipode.example/platform/auth"
	"antipode.example/platform/freeport"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service/servicetest"
)

// A region took a photo and died before a worker looked into it: the other one does that, and both have the same when it is back.
func TestAnotherRegionLooksIntoImages(t *testing.T) {
	t.Parallel()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	address, dir := fmt.Sprint("127.0.0.1:", port), t.TempDir()
	all := servicetest.TwoRegions(t, assetd(fmt.Sprintf(
		"services: [{name: user, addresses: [%[1]q]}, {name: session, addresses: [%[1]q]}]\nbucket: file://%[2]s/{region}/blobs\nspool: %[2]s/{region}/spool\nuploads: %[2]s/{region}/uploads\n", address, dir)))
	east, west := all[0], all[1]
	startNeighbour(t, address, east.Keys())
	withoutWorker(t, east)
	token := servicetest.Bearer(east.Token(t, auth.User, ann))
	here, there := caller{east, token}, caller{west, token}

	path := "/v1/assets/" + here.ok(t, http.MethodPost, "/v1/assets", `{"name":"a cat"}`).Field("id")
	if a := here.ok(t, http.MethodPut, path+"/content", photo(t), rpc.HeaderDurability, "remote"); a.Header.Get(rpc.HeaderDurability) != "remote" {
		t.Fatalf("the other region does not have it: %q", a.Header.Get(rpc.HeaderDurability))
	}
	if a := there.ok(t, http.MethodGet, path, ""); strings.Contains(a.Body, `"thumb"`) {
		t.Fatalf("there is a thumbnail, and nobody to make it: %s", a.Body)
	}
	east.Halt(t)
	servicetest.Eventually(t, "the other region acts for the dead one", func() bool { return metric(t, west, "antipode_takeover_regions") == "1" })
	servicetest.Eventually(t, "the other region makes the thumbnail", func() bool { return strings.Contains(there.ok(t, http.MethodGet, path, "").Body, `"thumb"`) })
	thumb := there.ok(t, http.MethodGet, path+"/content?variant=thumb", "").Body

	east.Start(t)
	servicetest.Eventually(t, "the region that is back has the thumbnail", func() bool { return strings.Contains(here.do(t, http.MethodGet, path, "").Body, `"thumb"`) })
	if a := here.ok(t, http.MethodGet, path+"/content?variant=thumb", ""); a.Body != thumb {
		t.Errorf("the region that is back gives %d bytes, the other one %d", len(a.Body), len(thumb))
	}
}

// withoutWorker has a process started again without that role.
func withoutWorker(t *testing.T, r *servicetest.Instance) {
	t.Helper()
	r.Halt(t)
	b, err := os.ReadFile(filepath.Clean(r.Config))
	if err != nil {
		t.Fatal(err)
	}
	less := bytes.Replace(b, []byte(", worker]"), []byte("]"), 1)
	if bytes.Equal(less, b) {
		t.Fatalf("no worker in %s", b)
	}
	if err := os.WriteFile(r.Config, less, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Start(t)
}

// metric is the value of a metric that a process shows, of the first of its kind.
func metric(t *testing.T, r *servicetest.Instance, name string) string {
	t.Helper()
	for line := range strings.Lines(r.Get(t, servicetest.Admin, "/metrics").Body) {
		if strings.HasPrefix(line, name) {
			return strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:])
		}
	}
	return ""
}
