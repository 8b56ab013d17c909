package archtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDependenciesAreExplained: whoever adds a dependency says in docs/dependencies.md what it is for and what was rejected.
func TestDependenciesAreExplained(t *testing.T) {
	root := root(t)
	page, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	var named []string
	for _, m := range regexp.MustCompile("`([^` ]+)`").FindAllStringSubmatch(string(page), -1) {
		named = append(named, m[1])
	}
	explained := func(module string) bool {
		return slices.ContainsFunc(named, func(n string) bool { return module == n || strings.HasPrefix(module, n+"/") })
	}
	if explained("example.com/never/heard/of") {
		t.Fatal("the page explains a module that does not exist")
	}

	modules, err := filepath.Glob(filepath.Join(root, "*", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	services, err := filepath.Glob(filepath.Join(root, "services", "*", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(modules, services...) {
		out, err := exec.CommandContext(t.Context(), "go", "mod", "edit", "-json", file).Output()
		if err != nil {
			t.Fatalf("read %s: %v", file, err)
		}
		var mod struct {
			Require []struct {
				Path     string
				Indirect bool
			}
		}
		if err := json.Unmarshal(out, &mod); err != nil {
			t.Fatalf("read %s: %v", file, err)
		}
		for _, r := range mod.Require {
			if !r.Indirect && !strings.HasPrefix(r.Path, prefix) && !explained(r.Path) {
				t.Errorf("%s requires %s, which docs/dependencies.md does not explain", file, r.Path)
			}
		}
	}
}
