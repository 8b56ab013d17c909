package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/proc"
	"antipode.example/regions/wan"
)

// run runs a command line and returns what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := newRoot()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestErrorsNameTheFix(t *testing.T) {
	typo := filepath.Join(t.TempDir(), "typo.yaml")
	if err := os.WriteFile(typo, []byte("name: x\nregoins: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	tests := map[string]struct {
		args []string
		want string
	}{
		"not running":            {[]string{"status"}, "up"},
		"not running, elsewhere": {[]string{"--data", "/srv/labs", "status"}, "regionctl --lab nosuchlab --data /srv/labs up"},
		"an unknown format":      {[]string{"status", "-o", "yaml"}, "text or json"},
		"an unknown topology":    {[]string{"up", "--topology", "nosuch"}, "nosuch"},
		"a typo in a topology":   {[]string{"up", "--topology", typo}, "regoins"},
		"half a name":            {[]string{"logs", "kafka"}, "region/component"},
		"nothing to set":         {[]string{"link", "set", "a", "b"}, "--delay"},
		"a loss that is none":    {[]string{"link", "set", "a", "b", "--loss", "much"}, "1% or 0.01"},
		"too great a loss":       {[]string{"link", "set", "a", "b", "--loss", "101%"}, "0% to 100%"},
		"a rate that is none":    {[]string{"link", "set", "a", "b", "--rate", "fast"}, "--rate"},
		"one way from one":       {[]string{"link", "cut", "a", "--one-way"}, "two regions"},
		"a fault that is none":   {[]string{"fault", "inject", "kil", "us-east/kafka"}, `no fault "kil": there are kill, crash`},
		"a fault of nothing":     {[]string{"fault", "inject", "kill", "us-east/kafak"}, "no component of us-east"},
		"a fault, half named":    {[]string{"fault", "heal", "cut", "us-east"}, "want cut REGION REGION"},
		"a fault, no lab":        {[]string{"fault", "inject", "clock", "us-east", "-5m"}, "up"},
		"healing all, no lab":    {[]string{"fault", "heal", "all"}, "not running"},
		"a flag among the words": {[]string{"fault", "inject", "kill", "us-east/kafka", "--lab", "x"}, "flags go before"},
		"kill without a name":    {[]string{"kill"}, "at least 1 arg"},
		"exec without a lab":     {[]string{"exec", "us-east", "--", "true"}, "up"},
		"exec without program":   {[]string{"exec", "us-east", "--", "no-such-program"}, "no-such-program"},
		"an admin, no lab":       {[]string{"admin", "create", "--email", "ann@example.com"}, "up"},
		"an admin without name":  {[]string{"admin", "create"}, `"email"`},
		"an admin, two ways":     {[]string{"admin", "create", "--email", "ann@example.com", "--password-file", "f", "--generate-password"}, "password-file"},
		"logs that aren't there": {[]string{"logs", "us-east/kafka"}, "no log yet"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := run(t, append([]string{"--lab", "nosuchlab", "--data", data}, test.args...)...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestEveryCommandHasHelp(t *testing.T) {
	var walk func(path []string)
	walk = func(path []string) {
		out, err := run(t, append(path, "--help")...)
		if err != nil || !strings.Contains(out, "Usage:") {
			t.Errorf("%v --help: %v\n%s", path, err, out)
		}
		c, _, err := newRoot().Find(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, sub := range c.Commands() {
			if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
				continue
			}
			if sub.Short == "" {
				t.Errorf("%v has no short description", append(path, sub.Name()))
			}
			walk(append(path[:len(path):len(path)], sub.Name()))
		}
	}
	walk(nil)
}

func TestCompletionOffersNames(t *testing.T) {
	tests := []struct{ words, want, never string }{
		{"kill us-east/pg", "us-east/pg-s1-1", ""},
		{"kill us-east/kafka eu-west/k", "eu-west/kafka", "us-east/kafka"},
		{"power off ", "ap-south", "us-east/kafka"},
		{"link cut us-east ", "eu-west", "us-east"},
		{"exec w", "world", ""},
		{"status -o ", "json", ""},
		{"up --topology ", "three", ""},
		{"logs ", "ap-south/haproxy", ""},
		{"fault ", "heal\tUndo a fault, or all of them", ""},
		{"fault inject crash ", "eu-west/user-a", "us-east"},
		{"fault inject orphan ", "eu-west/pg-s1-1", "us-east/kafka"},
		{"fault heal cut us-east ", "eu-west", "us-east"},
		{"fault heal ", "all\tevery active fault", ""},
		{"fault inject loss us-east eu-west ", "5%", "ap-south"},
		{"digest --service ", "user", "us-east"},
		{"sync us-east --service ", "user", "us-east"},
		{"dlq replay --service ", "user", ""},
		{"conflicts list --service ", "user", ""},
	}
	for _, test := range tests {
		words := strings.Split(test.words, " ")
		out, err := run(t, append([]string{"__complete", "--lab", "nosuchlab"}, words...)...)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out, "\n")
		offered := func(name string) bool {
			for _, l := range lines {
				if l == name {
					return true
				}
			}
			return false
		}
		if !offered(test.want) || test.never != "" && offered(test.never) {
			t.Errorf("%q is completed by\n%s", test.words, out)
		}
	}
}

func TestDownOfALabThatIsNotRunning(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the run directory needs root")
	}
	t.Cleanup(func() { _ = os.RemoveAll(lab.RunDir("clitest")) })
	data := t.TempDir()
	out, err := run(t, "--lab", "clitest", "--data", data, "down")
	if err != nil || !strings.Contains(out, "is not running") {
		t.Errorf("%q, %v", out, err)
	}
	if err := os.MkdirAll(filepath.Join(data, "clitest", "regions"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err = run(t, "--lab", "clitest", "--data", data, "clean"); err != nil || !strings.Contains(out, "removed") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(data, "clitest")); !os.IsNotExist(err) {
		t.Errorf("data after clean: %v", err)
	}
}

func TestStatusAsTextAndJSON(t *testing.T) {
	status := lab.Status{Lab: "x", State: "up", Faults: []lab.ActiveFault{{Name: "cut us-east eu-west"}, {Name: "clock us-east +5m"}}, Regions: []lab.RegionStatus{{
		Name: "us-east", State: "degraded", Door: "127.10.1.1:8080", Front: "198.18.1.1:8080",
		Components: []lab.ComponentStatus{
			{Name: "kafka", State: proc.Backoff, Restarts: 3, LastError: "ended with exit status 1 after 2s", Since: time.Now().Add(-90 * time.Second)},
			{Name: "pg-s1-1", State: proc.Ready, Detail: "primary", PID: 42, Memory: 50 << 20, CPU: 0.015},
		},
		Replication: &lab.Replication{EventsApplied: 7, Shards: []lab.ShardLag{{Region: "eu-west", Shard: "s1", LagMs: 44, SilentMs: 300, Parked: 2}}},
	}}}
	var text bytes.Buffer
	writeStatus(&text, status)
	for _, want := range []string{
		"faults are active: cut us-east eu-west; clock us-east +5m", "us-east is degraded", "kafka backoff ended with exit status 1 after 2s 1m30s 3", "pg-s1-1 ready primary", "50 MiB", "1.5 %",
		"from eu-west s1 lag 44 ms heard 0.3 s ago 2 parked",
	} {
		if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), want) {
			t.Errorf("status lacks %q:\n%s", want, text.String())
		}
	}
	var asJSON bytes.Buffer
	if err := (&settings{output: "json"}).show(&asJSON, status, nil); err != nil {
		t.Fatal(err)
	}
	var back lab.Status
	if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil || back.Regions[0].Components[1].PID != 42 {
		t.Errorf("%+v, %v", back, err)
	}
}

// Where there are several services, status says of which it speaks; where there is one, it needs no name.
func TestStatusOfSeveralServices(t *testing.T) {
	needs := []lab.Need{{Service: "session", Kind: "parked", Text: "4 events have waited", Do: "wait"}}
	shards := []lab.ShardLag{{Service: "user", Region: "eu-west", Shard: "s1", LagMs: 44}, {Service: "session", Region: "eu-west", Shard: "s1", LagMs: 55}}
	status := lab.Status{Services: []string{"user", "session"}, Regions: []lab.RegionStatus{{
		Name: "us-east", Replication: &lab.Replication{EventsApplied: 7, Shards: shards, NeedsPerson: needs},
	}}}
	text := func() string {
		var out bytes.Buffer
		writeStatus(&out, status)
		return strings.Join(strings.Fields(out.String()), " ")
	}
	for _, want := range []string{"session in us-east 4 events", "7 events applied", "user from eu-west s1 lag 44 ms", "session from eu-west s1 lag 55 ms"} {
		if got := text(); !strings.Contains(got, want) {
			t.Errorf("status lacks %q:\n%s", want, got)
		}
	}
	status.Services = status.Services[1:]
	for _, want := range []string{"needs a person: us-east 4 events", " from eu-west s1 lag 55 ms"} {
		if got := text(); !strings.Contains(got, want) || strings.Contains(got, "session from") {
			t.Errorf("of one service, status lacks %q:\n%s", want, got)
		}
	}
	// One that is silent hides nothing that another says.
	status.Regions[0].Replication.Error = "other: nobody is there"
	if got := text(); !strings.Contains(got, "unknown: other: nobody is there") || !strings.Contains(got, "lag 55 ms") {
		t.Errorf("status is\n%s", got)
	}
}

func TestDigestNamesServices(t *testing.T) {
	hash := strings.Repeat("a", 64)
	regions := []lab.RegionDigest{{Region: "us-east", Users: 3, Vectors: hash, States: hash}, {Region: "eu-west", Error: "nobody\nat all"}}
	var out bytes.Buffer
	writeDigest(&out, lab.DigestReport{Services: []lab.ServiceDigest{
		{Service: "user", Regions: regions, Equal: true},
		{Service: "session", Regions: regions, Behind: []uint32{7}},
		{Service: "asset", Regions: regions, Behind: []uint32{7}, Diverged: []uint32{8, 9}},
	}})
	got := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"SERVICE REGION USERS", "session us-east 3 aaaa", "session eu-west ? doesn't answer: nobody asset", "user is equal", "session is different: in 1 slots", "asset has DIVERGED in 2 slots: 8, 9",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("digest lacks %q:\n%s", want, got)
		}
	}
}

func TestFaultListAsTextAndJSON(t *testing.T) {
	out, err := run(t, "--lab", "nosuchlab", "fault", "list")
	if err != nil || !strings.Contains(out, "wipe REGION[/COMPONENT]") || !strings.Contains(out, "no fault is active") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = run(t, "--lab", "nosuchlab", "fault", "list", "-o", "json"); err != nil {
		t.Fatal(err)
	}
	var all struct {
		Active    []lab.ActiveFault
		Catalogue []lab.FaultKind
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || all.Active == nil || len(all.Catalogue) != len(lab.FaultCatalogue()) {
		t.Errorf("%+v, %v", all, err)
	}
	var text bytes.Buffer
	writeFaults(&text, faults{Active: []lab.ActiveFault{{Name: "kill us-east/kafka", Since: time.Now().Add(-90 * time.Second), Missing: "it is ready"}}})
	if got := strings.Join(strings.Fields(text.String()), " "); !strings.Contains(got, "kill us-east/kafka for 1m30s no longer holds: it is ready") {
		t.Errorf("list is %q", got)
	}
}

func TestLinksBetweenRegionsOnly(t *testing.T) {
	links := []wan.LinkState{{Pair: wan.Pair{From: "us-east", To: "eu-west"}}, {Pair: wan.Pair{From: "tokyo", To: "eu-west"}}}
	if got := between(links, []string{"us-east/kafka", "eu-west/kafka"}); len(got) != 1 || got[0].From != "us-east" {
		t.Errorf("links are %+v", got)
	}
}
