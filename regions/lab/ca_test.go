package lab

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"antipode.example/regions/topology"
)

func twoOf(t *testing.T) []topology.Region {
	t.Helper()
	return []topology.Region{{Name: "north", Number: 1, Shards: 1, NodesPerShard: 1, Instances: 1}, {Name: "south", Number: 2, Shards: 1, NodesPerShard: 1, Instances: 1}}
}

func certificates(t *testing.T, dir string, block int, now time.Time) {
	t.Helper()
	if err := ensureCertificates(dir, "test", twoOf(t), block, now, nil); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// handshake connects a client that trusts ca.pem alone to a server with the certificate of a region.
func handshake(t *testing.T, dir, region, name string) error {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(content(t, filepath.Join(dir, "ca.pem")))) {
		t.Fatal("ca.pem has no certificate")
	}
	file := filepath.Join(dir, "tls."+region+".pem")
	certificate, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	defer here.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		defer there.Close()
		s := tls.Server(there, &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12})
		_, _ = io.Copy(io.Discard, s) // until the client has gone
	}()
	defer func() { _ = here.Close(); <-served }()
	return tls.Client(here, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12}).HandshakeContext(t.Context())
}

func TestCertificatesOfRegions(t *testing.T) {
	dir := t.TempDir()
	certificates(t, dir, 3, time.Now())
	for name, regions := range map[string][]string{
		"api.antipode.test": {"north", "south"}, "cdn.antipode.test": {"north", "south"}, "localhost": {"north", "south"},
		"api.north.antipode.test": {"north"}, "cdn.south.antipode.test": {"south"},
		"198.18.1.1": {"north"}, "198.18.2.7": {"south"}, "127.13.1.1": {"north"},
		"127.10.1.1": {}, "127.13.3.1": {}, "ns.north.antipode.test": {}, "example.com": {},
	} {
		for _, region := range []string{"north", "south"} {
			err := handshake(t, dir, region, name)
			if good := slices.Contains(regions, region); good != (err == nil) {
				t.Errorf("%s is taken for %s: %t, want %t (%v)", region, name, err == nil, good, err)
			}
		}
	}
	for file, mode := range map[string]os.FileMode{"ca.pem": 0o644, "ca.key": 0o600, "tls.north.pem": 0o600, "tls.south.pem": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	a, err := ensureAuthority(dir, "test", time.Now(), nil)
	if err != nil || a.certificate.Subject.CommonName != "Antipode lab test CA" {
		t.Errorf("the authority is %v, %v", a.certificate.Subject, err)
	}
}

// What will do is kept; what will not do for long, or for these names, is made anew; the authority stays.
func TestCertificatesAreRenewedWhenTheyHaveTo(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	certificates(t, dir, 0, began)
	ca, north := content(t, filepath.Join(dir, "ca.pem")), content(t, filepath.Join(dir, "tls.north.pem"))
	same := func(want bool, when string) {
		t.Helper()
		now := content(t, filepath.Join(dir, "tls.north.pem"))
		if (now == north) != want {
			t.Errorf("%s: the same certificate %t, want %t", when, now == north, want)
		}
		north = now
		if content(t, filepath.Join(dir, "ca.pem")) != ca {
			t.Errorf("%s: there is another authority", when)
		}
	}
	certificates(t, dir, 0, began)
	same(true, "at once")
	certificates(t, dir, 0, began.Add(certificateLife-renewBefore-time.Hour))
	same(true, "with more than 30 days left")
	certificates(t, dir, 0, began.Add(certificateLife-renewBefore+time.Hour))
	same(false, "with less than 30 days left")
	certificates(t, dir, 0, began)
	same(false, "before it begins")
	certificates(t, dir, 1, began)
	same(false, "with other doors")
	if err := os.Remove(filepath.Join(dir, "tls.north.pem")); err != nil {
		t.Fatal(err)
	}
	certificates(t, dir, 1, began)
	same(false, "when it is missing")
	other := t.TempDir()
	certificates(t, other, 1, began)
	if err := os.WriteFile(filepath.Join(dir, "tls.north.pem"), []byte(content(t, filepath.Join(other, "tls.north.pem"))), 0o600); err != nil {
		t.Fatal(err)
	}
	certificates(t, dir, 1, began)
	same(false, "when it is another authority's")
	if err := handshake(t, dir, "north", "localhost"); err != nil {
		t.Errorf("after all that: %v", err)
	}
	// Near its own end, the authority signs for no longer than it lasts, and then says so.
	certificates(t, dir, 1, began.Add(authorityLife-2*renewBefore))
	if err := ensureCertificates(dir, "test", twoOf(t), 1, began.Add(authorityLife-renewBefore+time.Hour), nil); err == nil || !strings.Contains(err.Error(), "it ends at") {
		t.Errorf("an authority that ends: %v", err)
	}
}

func TestDamagedCertificates(t *testing.T) {
	for file, want := range map[string]string{"ca.pem": "remove both", "ca.key": "remove both", "tls.south.pem": "remove it"} {
		for what, text := range map[string]string{"emptied": "", "damaged": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
			dir := t.TempDir()
			certificates(t, dir, 0, time.Now())
			path := filepath.Join(dir, file)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := ensureCertificates(dir, "test", twoOf(t), 0, time.Now(), nil); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v", file, what, err)
			}
		}
	}
	dir := t.TempDir()
	certificates(t, dir, 0, time.Now())
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if err := ensureCertificates(dir, "test", twoOf(t), 0, time.Now(), nil); err == nil || !strings.Contains(err.Error(), "ca.key") || !strings.Contains(err.Error(), "remove "+filepath.Join(dir, "ca.pem")) {
		t.Errorf("the key of the authority is gone: %v", err)
	}
	// A key without a certificate was left by a start that was cut short.
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	certificates(t, dir, 0, time.Now())
	if err := handshake(t, dir, "north", "localhost"); err != nil {
		t.Error(err)
	}
}
