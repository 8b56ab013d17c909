package app

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"antipode.example/platform/service/servicetest"
)

// documentedMetrics are those that the operator's page names of every service. Those of the asset service alone, and of the traffic controller, are looked for in the tests of the whole system.
func documentedMetrics(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("../../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`(antipode_[a-z_]+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 15 {
		t.Fatalf("docs/operating.md names %d metrics", len(names))
	}
	var all []string
	for _, n := range names {
		elsewhere := func(prefix string) bool { return strings.HasPrefix(n[1], prefix) }
		if !slices.ContainsFunc([]string{"antipode_asset_", "antipode_blob_", "antipode_control_"}, elsewhere) {
			all = append(all, n[1])
		}
	}
	return all
}

// checkMetrics looks for every metric of the operator's page in what an instance shows. Nothing has to have happened for that.
func checkMetrics(t *testing.T, shown func() string) {
	t.Helper()
	for _, name := range documentedMetrics(t) {
		// Some need the first heartbeat of the other region.
		servicetest.Eventually(t, "docs/operating.md names "+name+", and /metrics shows it", func() bool {
			text := shown()
			return strings.Contains(text, "\n"+name+"{") || strings.Contains(text, "\n"+name+" ")
		})
	}
}
