package mutants

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"antipode.example/e2e/bounds"
)

var update = flag.Bool("update", false, "write the table in docs/mutants.md anew")

// root is the repository, from here.
const root = "../.."

func TestMutants(t *testing.T) {
	quick := map[string]bool{"platform/state": true} // what needs no engine
	for _, m := range table {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			overlay := m.overlay(t)
			if !bounds.Accept() && !quick[m.dir] {
				t.Skip("it fits the code; run with -accept")
			}
			out, err := m.run(t, overlay)
			switch {
			case err == nil:
				t.Errorf("%s passes with the mutant", m.test)
			case !strings.Contains(out, "--- FAIL: "+m.test):
				t.Errorf("%s did not fail, but: %v\n%s", m.test, err, tail(out))
			default:
				t.Log(complaint(out))
			}
		})
	}
}

// overlay writes the mutant's file, and what tells the go command to take it.
func (m mutant) overlay(t *testing.T) string {
	t.Helper()
	original, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(code), m.old); n != 1 {
		t.Fatalf("%s has the text to replace %d times, want once:\n%s", m.file, n, m.old)
	}
	dir := t.TempDir()
	changed := filepath.Join(dir, filepath.Base(m.file))
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {original: changed}})
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "overlay.json")
	for file, content := range map[string][]byte{changed: []byte(strings.Replace(string(code), m.old, m.new, 1)), at: overlay} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

func (m mutant) run(t *testing.T, overlay string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-timeout=5m", "-overlay", overlay, "-run", "^"+m.test+"$", "./"+m.dir)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// complaint is the first thing that the test had to say.
func complaint(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "_test.go:") {
			return strings.TrimSpace(line)
		}
	}
	return "it failed without a word"
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// TestDocs: the page lists the table.
func TestDocs(t *testing.T) {
	const page, begin = root + "/docs/mutants.md", "| what is wrong | what breaks by it | who notices |\n|---|---|---|\n"
	var rows strings.Builder
	for _, m := range table {
		fmt.Fprintf(&rows, "| %s | %s | `go test ./%s -run %s` |\n", m.name, m.guarantee, m.dir, m.test)
	}
	old, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(old), begin)
	if !ok {
		t.Fatalf("%s has no table that begins with\n%s", page, begin)
	}
	want := head + begin + rows.String()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(old) != want {
		t.Errorf("%s does not list the mutants as they are; run: go test ./e2e/mutants -run Docs -update", page)
	}
}
