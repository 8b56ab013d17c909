package service

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"antipode.example/platform/config"
	"antipode.example/platform/fault"
	"antipode.example/platform/replicate"
)

const example = `service: user
region: us-east
region_number: 1
instance: a
roles: [api, capture, replicate]
listen: 198.18.1.21:8080
peer_listen: 198.18.1.21:9080
admin_listen: 198.18.1.21:9090
keys_dir: /var/lib/antipode/main/keys
global_etcd: [http://198.18.1.2:2379, http://198.18.2.2:2379]
regional_etcd: [http://198.18.1.3:2379]
redis: 198.18.1.5:6379
kafka: {brokers: [198.18.1.4:9092], partitions: 8}
database: {name: user, user: antipode, password_file: /keys/postgres.password}
shards:
  - {name: s1, nodes: [198.18.1.11:5432, 198.18.1.12:5432]}
  - {name: s2, nodes: [198.18.1.13:5432, 198.18.1.14:5432]}
peers:
  - {region: eu-west, region_number: 2, kafka: [198.18.2.4:9092], sync: [198.18.2.21:9080, 198.18.2.22:9080]}
services:
  - {name: session, addresses: [198.18.1.31:8080, 198.18.1.32:8080]}
  - {name: asset, addresses: [198.18.1.41:8080]}
log: {level: info, format: json}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoad(t *testing.T) {
	t.Parallel()
	var c Config
	if err := Load(write(t, "config.yaml", example), "user", &c); err != nil {
		t.Fatal(err)
	}
	if !c.has(RoleCapture) || len(c.Shards) != 2 || c.Peers[0].Sync[1] != "198.18.2.22:9080" || c.Kafka.Partitions != 8 || c.topic() != "antipode.user.events" ||
		len(c.Services) != 2 || c.Services[0].Name != "session" || c.Services[0].Addresses[1] != "198.18.1.32:8080" {
		t.Errorf("%+v", c)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"typo in a key":          {"peer_listen:", "peer_lisen:", `peer_lisen: there is no such key; did you mean "peer_listen"?`},
		"typo in the offset":     {"keys_dir:", "clock_ofset_file: /x\nkeys_dir:", `did you mean "clock_offset_file"?`},
		"typo below":             {"partitions: 8", "partition: 8", `kafka.partition: there is no such key; did you mean "partitions"?`},
		"typo in a list":         {"{name: s2, nodes:", "{name: s2, node:", `did you mean "nodes"?`},
		"missing":                {"redis: 198.18.1.5:6379\n", "", "redis: is missing"},
		"wrong type":             {"region_number: 1\n", "region_number: one\n", "region_number: must be a whole number"},
		"number too great":       {"region_number: 1\n", "region_number: 65536\n", "region_number: must be a whole number from 0 to 65535"},
		"unknown role":           {"[api, capture, replicate]", "[api, captain]", "must be api, capture, replicate or worker"},
		"no roles":               {"[api, capture, replicate]", "[]", "roles: is missing"},
		"other service":          {"service: user", "service: asset", `service: is "asset"`},
		"address without port":   {"listen: 198.18.1.21:8080", "listen: 198.18.1.21", `listen: "198.18.1.21" is not an address and port`},
		"port too great":         {"198.18.1.21:8080", "198.18.1.21:80800", `"198.18.1.21:80800" is not an address and port`},
		"node without port":      {"198.18.1.14:5432", "198.18.1.14", "shards[1].nodes:"},
		"etcd without scheme":    {"http://198.18.1.3:2379", "198.18.1.3:2379", "regional_etcd:"},
		"shard twice":            {"name: s2", "name: s1", `shards[1].name: "s1" occurs twice`},
		"own region as a peer":   {"region: eu-west", "region: us-east", `peers[0].region: "us-east" occurs twice`},
		"own number as a peer's": {"region_number: 2", "region_number: 1", "peers[0].region_number: 1 occurs twice"},
		"service twice":          {"name: asset", "name: session", `services[1].name: "session" occurs twice`},
		"itself beside it":       {"name: asset", "name: user", `services[1].name: "user" is this service itself`},
		"service without a name": {"{name: asset, ", "{", "services[1].name: is missing"},
		"service nowhere":        {"[198.18.1.41:8080]", "[]", "services[1].addresses: is missing"},
		"service without a port": {"198.18.1.32:8080]", "198.18.1.32]", `services[0].addresses: "198.18.1.32" is not an address and port`},
		"typo in a service":      {"{name: asset, addresses:", "{name: asset, address:", `services[1].address: there is no such key; did you mean "addresses"?`},
		"no partitions":          {"partitions: 8", "partitions: -8", "kafka.partitions: must be at least 1"},
		"share of traces":        {"log:", "trace: {sampel: 1}\nlog:", `trace.sampel: there is no such key; did you mean "sample"?`},
		"not YAML":               {"service: user", "service: [user", "yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, "config.yaml", strings.Replace(example, x.old, x.new, 1))
			err := Load(file, "user", &Config{})
			if err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), file) {
				t.Errorf("got %v, want %s with the file's name", err, x.want)
			}
		})
	}
}

// own is the configuration of a service with a key of its own.
type own struct {
	Config `koanf:",squash"`
	Secret string `koanf:"secret" config:"required"`
}

func (o *own) Validate() error {
	if o.Secret == "open" {
		return config.Errorf("secret", "is none")
	}
	return nil
}

func TestLoadAServiceWithKeysOfItsOwn(t *testing.T) {
	t.Parallel()
	text := example + "secret: s\n"
	var c own
	if err := Load(write(t, "config.yaml", text), "user", &c); err != nil {
		t.Fatal(err)
	}
	if c.Secret != "s" || c.Region != "us-east" || !c.has(RoleAPI) {
		t.Errorf("%+v", c)
	}
	for name, x := range map[string]struct{ old, new, want string }{
		"its own check":          {"secret: s", "secret: open", "secret: is none"},
		"missing of its own":     {"secret: s", "", "secret: is missing"},
		"missing of all":         {"redis: 198.18.1.5:6379\n", "", "redis: is missing"},
		"typo in a key of all":   {"peer_listen:", "peer_lisen:", `did you mean "peer_listen"?`},
		"what all are checked":   {"partitions: 8", "partitions: -8", "kafka.partitions: must be at least 1"},
		"other service":          {"service: user", "service: asset", `service: is "asset", but this program is the service "user"`},
		"typo in its own":        {"secret:", "secert:", `secert: there is no such key; did you mean "secret"?`},
		"the struct is no key":   {"secret: s", "secret: s\nConfig: {}", "Config: there is no such key"},
		"wrong type in a nested": {"partitions: 8", "partitions: many", "kafka.partitions: must be a whole number"},
	} {
		file := write(t, "config.yaml", strings.Replace(text, x.old, x.new, 1))
		if err := Load(file, "user", &own{}); err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want %s with the file's name", name, err, x.want)
		}
	}
}

func TestReadKeys(t *testing.T) {
	t.Parallel()
	const one, two = `{"id":"1","secret":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}`, `{"id":"2","secret":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}`
	if k, err := ReadKeys(write(t, "causal.json", `{"keys":[`+two+`,`+one+`]}`)); err != nil || len(k) != 2 || k[0].ID != "2" || len(k[0].Secret) != 32 {
		t.Errorf("%v, %v", k, err)
	}
	for name, x := range map[string]struct{ text, want string }{
		"no keys":      {`{"keys":[]}`, "has no key"},
		"short secret": {`{"keys":[{"id":"1","secret":"c2hvcnQ="}]}`, "keys[0]"},
		"no id":        {`{"keys":[{"secret":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}]}`, "keys[0]"},
		"typo":         {`{"key":[` + one + `]}`, "unknown field"},
		"not JSON":     {`keys: 1`, "invalid character"},
	} {
		if _, err := ReadKeys(write(t, "causal.json", x.text)); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %s", name, err, x.want)
		}
	}
	if _, err := ReadKey(write(t, "claim.json", `{"keys":[`+two+`,`+one+`]}`)); err == nil || !strings.Contains(err.Error(), "cannot be rotated") {
		t.Errorf("two claim keys: %v", err)
	}
	open := write(t, "causal.json", `{"keys":[`+one+`]}`)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeys(open); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	if _, err := ReadKeys(filepath.Join(t.TempDir(), "none.json")); err == nil {
		t.Error("a missing file was read")
	}
}

func TestCheckClock(t *testing.T) {
	t.Parallel()
	now := time.Now()
	peer := func(offset, age time.Duration) replicate.PeerStatus {
		return replicate.PeerStatus{Clock: replicate.ClockOffset{Offset: offset, At: now.Add(-age), Own: now.Add(-age)}}
	}
	slow := func(offset, rtt time.Duration) replicate.PeerStatus {
		return replicate.PeerStatus{Clock: replicate.ClockOffset{Offset: offset, RTT: rtt, At: now, Own: now}}
	}
	for name, x := range map[string]struct {
		peers   []replicate.PeerStatus
		refused bool
	}{
		"alone":                           {nil, false},
		"in step":                         {[]replicate.PeerStatus{peer(10*time.Millisecond, 0), peer(-20*time.Millisecond, 0)}, false},
		"ours is behind":                  {[]replicate.PeerStatus{peer(time.Second, 0), peer(900*time.Millisecond, 0)}, true},
		"ours is ahead":                   {[]replicate.PeerStatus{peer(-time.Second, 0), peer(-time.Hour, 0)}, true},
		"another's is wrong":              {[]replicate.PeerStatus{peer(5*time.Minute, 0), peer(3*time.Millisecond, 0)}, false},
		"two clocks cannot tell":          {[]replicate.PeerStatus{peer(time.Hour, 0)}, false},
		"old measurements count for none": {[]replicate.PeerStatus{peer(time.Hour, time.Minute), peer(time.Hour, time.Minute)}, false},
		"never measured":                  {[]replicate.PeerStatus{{}, {}}, false},
		"slow answers prove nothing":      {[]replicate.PeerStatus{slow(900*time.Millisecond, 1900*time.Millisecond), slow(800*time.Millisecond, 1700*time.Millisecond)}, false},
		"slow answers, but far off":       {[]replicate.PeerStatus{slow(5*time.Minute, 1900*time.Millisecond), slow(4*time.Minute, 1700*time.Millisecond)}, true},
		"four clocks":                     {[]replicate.PeerStatus{peer(2*time.Second, 0), peer(2*time.Second, 0), peer(0, 0)}, true},
	} {
		err := checkClock(time.Now(), x.peers)
		if f := fault.From(err); (f != nil) != x.refused || f != nil && f.Kind != fault.Clock {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A region whose clock is set wrong refuses writes at once, and goes on judging tokens by the time that it is.
func TestAClockThatIsSetWrong(t *testing.T) {
	t.Parallel()
	began := time.Now()
	measured := replicate.PeerStatus{Clock: replicate.ClockOffset{Offset: 3 * time.Millisecond, At: began, Own: began}}
	peers := []replicate.PeerStatus{measured, measured}
	for _, wrong := range []time.Duration{5 * time.Minute, -5 * time.Minute} {
		own := setBy{wrong}
		if err := checkClock(own.Now(), peers); err == nil {
			t.Errorf("set by %s: writes go on", wrong)
		}
		right := rightClock{own, func() []replicate.PeerStatus { return peers }}
		if off := time.Until(right.Now()).Abs(); off > maxSkew {
			t.Errorf("set by %s: tokens are judged by a clock that is off by %s", wrong, off)
		}
		alone := rightClock{own, func() []replicate.PeerStatus { return peers[:1] }}
		if off := time.Until(alone.Now()); (off - wrong).Abs() > maxSkew {
			t.Errorf("set by %s, where nobody can tell: the clock is changed to one that is off by %s", wrong, off)
		}
	}
}

// setBy is a clock that is wrong.
type setBy struct{ by time.Duration }

func (c setBy) Now() time.Time { return time.Now().Add(c.by) }
