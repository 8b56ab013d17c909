package config_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/config"
)

type kafka struct {
	Brokers    []string `koanf:"brokers" config:"required"`
	Partitions int      `koanf:"partitions"`
}

type peer struct {
	Region string `koanf:"region" config:"required"`
	Number uint16 `koanf:"region_number"`
}

type settings struct {
	Listen  string        `koanf:"listen" config:"required"`
	Timeout time.Duration `koanf:"timeout"`
	Ratio   float64       `koanf:"ratio"`
	Level   slog.Level    `koanf:"level"`
	Debug   bool          `koanf:"debug"`
	Kafka   kafka         `koanf:"kafka"`
	Peers   []peer        `koanf:"peers"`
}

func (s *settings) Validate() error {
	if !strings.Contains(s.Listen, ":") {
		return config.Errorf("listen", "must be host:port, is %q", s.Listen)
	}
	return nil
}

const good = `
listen: 127.0.0.1:80
timeout: 1m30s
level: warn
kafka: {brokers: [a, b]}
peers:
  - {region: eu-west, region_number: 2}
`

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	got := settings{Ratio: 0.5, Kafka: kafka{Partitions: 8}}
	if err := config.Load(file, &got); err != nil {
		t.Fatal(err)
	}
	want := settings{
		Listen: "127.0.0.1:80", Timeout: 90 * time.Second, Ratio: 0.5, Level: slog.LevelWarn,
		Kafka: kafka{Brokers: []string{"a", "b"}, Partitions: 8}, Peers: []peer{{"eu-west", 2}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := config.Load(file+"x", &got); err == nil || !strings.Contains(err.Error(), file+"x") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"unknown key", "timeout:", "timeuot:", `a.yaml: timeuot: there is no such key; did you mean "timeout"?`},
		{"other case", "timeout:", "Timeout:", `a.yaml: Timeout: there is no such key; did you mean "timeout"?`},
		{"unknown, nothing near", "timeout:", "colour:", `a.yaml: colour: there is no such key; there are listen, timeout, ratio, level, debug, kafka, peers`},
		{"unknown nested", "brokers:", "broker:", `a.yaml: kafka.broker: there is no such key; did you mean "brokers"?`},
		{"unknown in list", "region_number:", "region_nmber:", `a.yaml: peers[0].region_nmber: there is no such key; did you mean "region_number"?`},
		{"number for text", "127.0.0.1:80", "80", `a.yaml: listen: must be text, is 80`},
		{"text for number", "region_number: 2", "region_number: '2'", `a.yaml: peers[0].region_number: must be a whole number from 0 to 65535, is the text "2"`},
		{"out of range", "region_number: 2", "region_number: 70000", `a.yaml: peers[0].region_number: must be a whole number from 0 to 65535, is 70000`},
		{"negative", "region_number: 2", "region_number: -1", `a.yaml: peers[0].region_number: must be a whole number from 0 to 65535, is -1`},
		{"fraction", "brokers: [a, b]", "brokers: [a], partitions: 1.5", `a.yaml: kafka.partitions: must be a whole number, is 1.5`},
		{"text for list", "[a, b]", "a", `a.yaml: kafka.brokers: must be a list, is the text "a"`},
		{"list for mapping", "{brokers: [a, b]}", "[a]", `a.yaml: kafka: must be a mapping of keys to values, is a list`},
		{"number in list of text", "[a, b]", "[a, 1]", `a.yaml: kafka.brokers[1]: must be text, is 1`},
		{"duration without unit", "1m30s", "90", `a.yaml: timeout: must be a duration such as "500ms" or "1m30s", is 90`},
		{"bad duration", "1m30s", "90 sec", `a.yaml: timeout: must be a duration such as "500ms" or "1m30s", is the text "90 sec"`},
		{"yes for true", "level: warn", "debug: yes please", `a.yaml: debug: must be true or false, is the text "yes please"`},
		{"bad text", "level: warn", "level: loud", `a.yaml: level: "loud" is not valid: `},
		{"missing", "listen: 127.0.0.1:80", "", `a.yaml: listen: is missing: must be text`},
		{"null", "listen: 127.0.0.1:80", "listen:", `a.yaml: listen: is missing: must be text`},
		{"missing nested", "brokers: [a, b]", "partitions: 3", `a.yaml: kafka.brokers: is missing: must be a list`},
		{"missing in list", "region: eu-west, ", "", `a.yaml: peers[0].region: is missing: must be text`},
		{"validation", "127.0.0.1:80", "localhost", `a.yaml: listen: must be host:port, is "localhost"`},
		{"not YAML", "kafka: {", "kafka: {{", `a.yaml: yaml: `},
		{"twice", "level: warn", "listen: x", `already defined`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.from, tt.to, 1)
			if text == good {
				t.Fatal("the test changes nothing")
			}
			err := config.Parse("a.yaml", []byte(text), &settings{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
		})
	}
}

// Common is what several configurations embed.
type Common struct {
	Region string `koanf:"region" config:"required"`
	Kafka  kafka  `koanf:"kafka"`
}

func TestEmbedded(t *testing.T) {
	var got struct {
		Common `koanf:",squash"`
		Secret string `koanf:"secret" config:"required"`
	}
	text := "region: us-east\nkafka: {brokers: [a]}\nsecret: s\n"
	if err := config.Parse("a.yaml", []byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if got.Region != "us-east" || got.Kafka.Brokers[0] != "a" || got.Secret != "s" {
		t.Errorf("%+v", got)
	}
	for _, tt := range []struct{ name, from, to, want string }{
		{"unknown, near one of the embedded", "region:", "regoin:", `a.yaml: regoin: there is no such key; did you mean "region"?`},
		{"unknown, near one of its own", "secret:", "secrte:", `a.yaml: secrte: there is no such key; did you mean "secret"?`},
		{"unknown, nothing near", "secret:", "colour:", `a.yaml: colour: there is no such key; there are region, kafka, secret`},
		{"unknown nested", "brokers:", "broker:", `a.yaml: kafka.broker: there is no such key; did you mean "brokers"?`},
		{"the embedded struct is no key", "region:", "Common:", `a.yaml: Common: there is no such key`},
		{"missing embedded", "region: us-east\n", "", `a.yaml: region: is missing: must be text`},
		{"missing embedded nested", "brokers: [a]", "partitions: 3", `a.yaml: kafka.brokers: is missing: must be a list`},
		{"missing own", "secret: s\n", "", `a.yaml: secret: is missing: must be text`},
		{"wrong type", "us-east", "1", `a.yaml: region: must be text, is 1`},
	} {
		changed := strings.Replace(text, tt.from, tt.to, 1)
		into := got
		into.Region, into.Secret, into.Kafka = "", "", kafka{}
		if err := config.Parse("a.yaml", []byte(changed), &into); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.name, err, tt.want)
		}
	}
}
