package lab

import (
	"os"
	"slices"
	"strings"
	"testing"
)

var someComponents = []string{ //nolint:gochecknoglobals // a constant that Go can't express
	"us-east/kafka", "us-east/redis", "us-east/pg-s1-1", "eu-west/kafka", "eu-west/pg-s1-1", "ap-south/kafka",
}

func TestFaultsInWords(t *testing.T) {
	for words, want := range map[string]string{
		"kill us-east/kafka":                 "",
		"  kill   us-east/kafka ":            "kill us-east/kafka",
		"orphan us-east/pg-s1-1":             "",
		"wipe us-east":                       "",
		"wipe us-east/redis":                 "",
		"power-off ap-south":                 "",
		"cut eu-west us-east":                "cut us-east eu-west",
		"cut-one-way eu-west us-east":        "",
		"isolate eu-west":                    "",
		"loss ap-south us-east 5%":           "loss us-east ap-south 5%",
		"loss us-east ap-south 0.005":        "loss us-east ap-south 0.5%",
		"delay us-east eu-west +500ms":       "delay us-east eu-west 500ms",
		"delay us-east eu-west 1.5s":         "",
		"rate us-east eu-west 1000kbit":      "rate us-east eu-west 1Mbit",
		"clock us-east +5m":                  "",
		"clock us-east 300s":                 "clock us-east +5m",
		"clock us-east -5m":                  "",
		"clock us-east -1h0m30s":             "",
		"clock us-east 24h":                  "clock us-east +24h",
		"kill-postmaster us-east/pg-s1-1":    "",
		"kill-postmaster   eu-west/pg-s1-1 ": "kill-postmaster eu-west/pg-s1-1",
	} {
		if want == "" {
			want = words
		}
		for _, split := range [][]string{{words}, strings.Fields(words)} {
			got, err := CheckFault(someComponents, split...)
			if err != nil || got != want {
				t.Errorf("%q is %q, %v; want %q", split, got, err, want)
			}
		}
		if again, err := CheckFault(someComponents, want); err != nil || again != want {
			t.Errorf("the name %q is the fault %q, %v", want, again, err)
		}
	}
}

func TestFaultsThatAreNone(t *testing.T) {
	for words, want := range map[string]string{
		"":                               "regionctl fault list",
		"kil us-east/kafka":              `no fault "kil"`,
		"kill":                           `want kill REGION/COMPONENT, such as "kill us-east/kafka"`,
		"kill us-east/kafka now":         "want kill REGION/COMPONENT",
		"kill kafka":                     "region/component",
		"kill us-west/kafka":             `no region "us-west": there are us-east, eu-west, ap-south`,
		"kill eu-west/redis":             `no component of eu-west "redis": there are kafka, pg-s1-1`,
		"orphan us-east/kafka":           "no database node",
		"kill-postmaster us-east/redis":  "no database node",
		"wipe us-west":                   `no region "us-west"`,
		"wipe us-east/kafak":             "there are kafka, redis, pg-s1-1",
		"power-off us-east/kafka":        "no region",
		"cut us-east":                    "want cut REGION REGION",
		"cut us-east us-east":            "the same",
		"isolate":                        "want isolate REGION",
		"loss us-east eu-west much":      "1% or 0.01",
		"loss us-east eu-west 101%":      "0% to 100%",
		"loss us-east eu-west 1":         "1% or 100%",
		"loss us-east eu-west NaN":       "out of range",
		"loss us-east eu-west 0%":        "no fault",
		"delay us-east eu-west long":     "no duration",
		"delay us-east eu-west -5ms":     "more than 0",
		"rate us-east eu-west 1":         "with the unit",
		"rate us-east eu-west unlimited": "no fault",
		"clock us-east":                  "want clock REGION OFFSET",
		"clock us-east 5":                "no duration",
		"clock us-east 0s":               "100ms to 24h",
		"clock us-east -25h":             "ahead or behind",
	} {
		got, err := CheckFault(someComponents, words)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v; want an error with %q", words, got, err, want)
		}
	}
}

func TestCatalogueIsWhole(t *testing.T) {
	manual, err := os.ReadFile("../../docs/local-world.md")
	if err != nil {
		t.Fatal(err)
	}
	components := append(someComponents[:len(someComponents):len(someComponents)], "us-east/user-a", "us-east/pg-s1-2")
	for _, k := range FaultCatalogue() {
		if _, err := CheckFault(components, k.Example); err != nil {
			t.Errorf("the example of %s: %v", k.Name, err)
		}
		if line := "| `" + k.Usage() + "` | " + k.Help + " |"; !strings.Contains(string(manual), line) {
			t.Errorf("docs/local-world.md lacks the line\n%s", line)
		}
		words := []string{k.Name}
		for range k.Args {
			next := CompleteFault(components, words...)
			if len(next) == 0 {
				t.Fatalf("%q is not completed", words)
			}
			words = append(words, next[0])
		}
		if _, err := CheckFault(components, words...); err != nil {
			t.Errorf("completion leads to %q: %v", words, err)
		}
		if more := CompleteFault(components, words...); len(more) > 0 {
			t.Errorf("%q is completed by %q", words, more)
		}
		if !slices.ContainsFunc(CompleteFault(components), func(c string) bool { return strings.HasPrefix(c, k.Name+"\t") }) {
			t.Errorf("%s is not offered", k.Name)
		}
	}
}
