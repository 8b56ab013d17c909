package server

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/config"
)

const validConfig = `
zone: antipode.test
self: east
listen: 127.0.0.1:5300
admin_listen: 127.0.0.1:9090
controllers: [http://127.0.0.1:9200]
keys: /keys/dns.json
state: /data/state
admitted: /run/admitted
regions:
  - {name: east, api: [198.18.1.1, "2001:db8::1"], cdn: [198.18.1.7], ns: [198.18.1.6]}
  - {name: west, api: [198.18.2.1], cdn: [198.18.2.7], ns: [198.18.2.6]}
places:
  - {prefix: 198.18.200.1/32, rtt: {east: 8ms, west: 74ms}}
`

func TestLoad(t *testing.T) {
	load := func(text string) (Config, error) {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return Load(file)
	}
	cfg, err := load(validConfig)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TTL != 3*time.Second || cfg.Places[0].RTT["west"] != 74*time.Millisecond || len(cfg.Regions[0].API) != 2 || cfg.Listen.Port() != 5300 {
		t.Errorf("read as %+v", cfg)
	}
	for _, tc := range []struct{ old, new, want string }{
		{"zone: antipode.test", "zone: Antipode..test", "zone: "},
		{"zone: antipode.test", "zoen: antipode.test", `zoen: there is no such key; did you mean "zone"?`},
		{"self: east", "self: north", `self: "north" is not among the regions`},
		{"listen: 127.0.0.1:5300", "listen: 127.0.0.1:0", "listen: needs a port"},
		{"listen: 127.0.0.1:5300", "listen: 5300", "listen: must be text"},
		{"[http://127.0.0.1:9200]", "[127.0.0.1:9200]", "controllers[0]: "},
		{"[http://127.0.0.1:9200]", "[]", "controllers: is missing"},
		{"keys: /keys/dns.json", "", "keys: is missing"},
		{"admitted: /run/admitted", "", "admitted: is missing"},
		{"zone: antipode.test", "zone: antipode.test\nttl: 500ms", "ttl: is 500ms"},
		{"zone: antipode.test", "zone: antipode.test\nttl: 2h", "ttl: is 2h0m0s"},
		{"zone: antipode.test", "zone: antipode.test\nmailbox: me@example.org", "mailbox: "},
		{"name: west", "name: east", "regions[1].name: east is there twice"},
		{"name: west", "name: api", "regions[1].name: "},
		{"name: west", "name: We.st", "regions[1].name: "},
		{"api: [198.18.2.1]", `api: ["2001:db8::2"]`, "regions[1].api: has no IPv4 address"},
		{"api: [198.18.2.1]", "api: [nowhere]", "regions[1].api[0]: "},
		{"api: [198.18.2.1], ", "", "regions[1].api: is missing"},
		{"prefix: 198.18.200.1/32", "prefix: 198.18.200.1/24", "places[0].prefix: 198.18.200.1/24 has bits beyond its length: write 198.18.200.0/24"},
		{"west: 74ms", "north: 74ms", `places[0].rtt: "north" is not among the regions`},
		{"west: 74ms", "west: -1ms", "places[0].rtt.west: is -1ms"},
		{"west: 74ms", "west: 74", "places[0].rtt"},
		{"places:", "places:\n  - {prefix: 198.18.200.1/32, rtt: {east: 1ms}}", "places[1].prefix: 198.18.200.1/32 is there twice"},
	} {
		_, err := load(strings.Replace(validConfig, tc.old, tc.new, 1))
		if e := (*config.Error)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s in place of %s: %v; want %q", tc.new, tc.old, err, tc.want)
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"serve"}, "say --config FILE"},
		{[]string{"serve", "--config", "/does/not/exist"}, "no such file"},
		{[]string{"serve", "now"}, "unknown command"},
		{[]string{"sing"}, "unknown command"},
	} {
		if err := Main(t.Context(), tc.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("geodns %s: %v; want %q", strings.Join(tc.args, " "), err, tc.want)
		}
	}
	var help strings.Builder
	if err := Main(t.Context(), []string{"--help"}, &help, io.Discard); err != nil || !strings.Contains(help.String(), "serve") {
		t.Errorf("geodns --help: %v\n%s", err, help.String())
	}
}
