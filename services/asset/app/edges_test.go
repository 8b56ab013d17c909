package app

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"antipode.example/platform/auth"
	"antipode.example/platform/freeport"
	"antipode.example/platform/id"
	"antipode.example/platform/rpc"
	"antipode.example/platform/service/servicetest"
)

// Whole processes in two regions, each with a real edge before it: what is not public any more is gone from both, whoever made it so.
func TestEdgesForget(t *testing.T) {
	t.Parallel()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	address, dir := fmt.Sprint("127.0.0.1:", port), t.TempDir()
	all := servicetest.TwoRegions(t, assetd(fmt.Sprintf(
		"services: [{name: user, addresses: [%[1]q]}, {name: session, addresses: [%[1]q]}]\nbucket: file://%[2]s/{region}/blobs\nspool: %[2]s/{region}/spool\nuploads: %[2]s/{region}/uploads\n", address, dir)))
	n := startNeighbour(t, address, all[0].Keys())
	var edges []*edge
	for _, r := range all {
		e := startEdge(t, r)
		edges = append(edges, e)
		r.Halt(t)
		configure(t, r, fmt.Sprintf("edges: [%q]\n", e.purges))
		r.Start(t)
	}
	as := func(r *servicetest.Instance, user id.ID) caller {
		return caller{r, servicetest.Bearer(all[0].Token(t, auth.User, user))}
	}
	// share has everybody read a new photo through both edges, from the cache.
	share := func() (path, public string) {
		a := as(all[0], ann).ok(t, http.MethodPost, "/v1/assets", `{"name":"a cat","visibility":"VISIBILITY_PUBLIC"}`)
		path = "/v1/assets/" + a.Field("id")
		public = as(all[0], ann).ok(t, http.MethodPut, path+"/content", photo(t), rpc.HeaderDurability, "remote").Field("publicPath")
		for _, e := range edges {
			servicetest.Eventually(t, "the edge has it", func() bool { return strings.Contains(e.get(t, public).Header.Get("Cache-Status"), "hit") })
		}
		return path, public
	}
	gone := func(public string) {
		t.Helper()
		for _, e := range edges {
			servicetest.Eventually(t, "the edge has forgotten it", func() bool { return e.get(t, public).Status == http.StatusNotFound })
		}
	}
	for _, r := range all { // in the region of the content, and in the other one
		path, public := share()
		as(r, ann).ok(t, http.MethodPatch, path+"?updateMask=visibility", `{"visibility":"VISIBILITY_PRIVATE"}`)
		gone(public)
		path, public = share()
		as(r, ann).ok(t, http.MethodDelete, path, "")
		gone(public)
	}
	path, public := share()
	as(all[1], ann).ok(t, http.MethodPatch, path+"?updateMask=name", `{"name":"a dog"}`)
	for _, e := range edges {
		servicetest.Eventually(t, "the edge knows the new name", func() bool { return strings.Contains(e.get(t, public).Header.Get("Content-Disposition"), "a dog") })
	}
	n.remove(t, ann)
	gone(public)
}

// configure has more in the configuration of a process that was halted.
func configure(t *testing.T, r *servicetest.Instance, more string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Clean(r.Config), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(more); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// edge is a real one before a process.
type edge struct{ url, purges string }

func (e *edge) get(t *testing.T, path string) servicetest.Answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, e.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	a, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Body.Close() }()
	if _, err := io.Copy(io.Discard, a.Body); err != nil {
		t.Fatal(err)
	}
	return servicetest.Answer{Status: a.StatusCode, Header: a.Header}
}

// startEdge runs Varnish with the rules of deploy/varnish. What no purge reaches stays there for an hour.
func startEdge(t *testing.T, r *servicetest.Instance) *edge {
	t.Helper()
	program := "/usr/sbin/varnishd"
	if _, err := os.Stat(program); err != nil {
		t.Skip("Varnish is not installed: tools/deps.sh run")
	}
	front, admin := netip.MustParseAddrPort(r.Address+":"+servicetest.Front), netip.MustParseAddrPort(r.Address+":"+servicetest.Admin)
	const rules = "../../../deploy/varnish/"
	text, err := template.New("edge.vcl.tmpl").Option("missingkey=error").ParseFiles(rules + "edge.vcl.tmpl")
	if err != nil {
		t.Fatal(err)
	}
	type origin struct {
		Name         string
		Front, Ready netip.AddrPort
	}
	var vcl bytes.Buffer
	if err := text.Execute(&vcl, map[string]any{
		"Prefix": netip.MustParsePrefix("127.0.0.0/24"), "Admitted": r.Config, "Host": "api.antipode.test", "ReadyPath": "/readyz", "Origins": []origin{{"here", front, admin}}, "Retries": 0, "MaxObject": 1 << 20,
		"FirstByte": 8, "TTL": 3600, "TTLElsewhere": 3600, "TTLAbsent": 2, "Grace": 3600, "Problems": nil, "ID": "[0-9a-f-]{36}",
	}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	caching, err := os.ReadFile(rules + "caching.vcl")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"edge.vcl": vcl.Bytes(), "caching.vcl": caching} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listen, purges := freeAddress(t), freeAddress(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := exec.CommandContext(ctx, program, "-F", "-j", "none", "-T", "none", "-n", filepath.Join(dir, "work"), "-i", r.Name, "-a", "clients="+listen, "-a", "purge="+purges,
		"-f", filepath.Join(dir, "edge.vcl"), "-s", "malloc,16m", "-p", "default_ttl=0", "-p", "default_grace=0", "-p", "vsl_space=8m")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // interrupted
		if t.Failed() {
			t.Log(output.String())
		}
	})
	servicetest.Eventually(t, "the edge serves", func() bool {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(t.Context(), "tcp", listen)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return &edge{"http://" + listen, purges}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint("127.0.0.1:", port)
}
