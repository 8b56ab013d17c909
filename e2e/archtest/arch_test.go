package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	pathpkg "path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const prefix = "antipode.example/"

type pkg struct {
	ImportPath   string
	Name         string
	Imports      []string
	TestImports  []string
	XTestImports []string
}

// short is an import path without our prefix.
func short(path string) string { return strings.TrimPrefix(path, prefix) }

func TestEveryRuleCanFail(t *testing.T) {
	for _, r := range rules {
		from, imports, ok := strings.Cut(r.breaks, " imports ")
		if !ok || r.reason == "" {
			t.Fatalf("a rule needs a reason and an import that breaks it: %+v", r)
		}
		seeded := pkg{ImportPath: prefix + from, Imports: []string{"fmt", imports}}
		if got := r.check(seeded); len(got) != 1 {
			t.Errorf("%q found %d times, want once", r.breaks, len(got))
		}
	}
}

func TestImports(t *testing.T) {
	packages := workspace(t)
	for _, p := range packages {
		if strings.HasSuffix(p.ImportPath, "test") { // a fixture, like net/http/httptest: for tests only
			p.TestImports, p.Imports = append(p.TestImports, p.Imports...), nil
		}
		for _, r := range rules {
			for _, broken := range r.check(p) {
				t.Error(broken)
			}
		}
	}
}

func TestPackageNames(t *testing.T) {
	for _, p := range workspace(t) {
		if slices.Contains(emptyNames, p.Name) {
			t.Errorf("package %s: a name says what is inside; %q does not", short(p.ImportPath), p.Name)
		}
	}
}

func TestHandWrittenGo(t *testing.T) {
	root := root(t)
	for _, o := range onlyFiles {
		for _, f := range goFiles(t, root, o.dir) {
			if o.except != "" && strings.HasPrefix(f, o.except+"/") {
				continue
			}
			if !slices.Contains(o.files, f) {
				t.Errorf("%s: %s", f, o.reason)
			}
		}
	}
}

func TestMainsAreShort(t *testing.T) {
	root := root(t)
	for _, f := range goFiles(t, root, "services") {
		if filepath.Base(f) != "main.go" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > mainLines {
			t.Errorf("%s has %d lines; at most %d: wiring belongs in app, where a test can boot it", f, n, mainLines)
		}
	}
}

// check lists what in p breaks the rule, each as a sentence.
func (r rule) check(p pkg) []string {
	from := short(p.ImportPath)
	name, ok := "", false
	for _, pattern := range r.from {
		if name, ok = match(pattern, from); ok {
			break
		}
	}
	if !ok {
		return nil
	}
	imports := p.Imports
	if r.tests {
		imports = slices.Concat(p.Imports, p.TestImports, p.XTestImports)
	}
	matches := func(patterns []string, path string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool {
			_, ok := match(strings.ReplaceAll(pattern, "{name}", name), path)
			return ok
		})
	}
	var broken []string
	for _, i := range imports {
		i = short(i)
		// A package and its external test are one.
		if i != from && matches(r.forbid, i) && !matches(r.allow, i) {
			broken = append(broken, fmt.Sprintf("%s imports %s: %s", from, i, r.reason))
		}
	}
	return broken
}

// match matches an import path; name is what the first "*" stood for.
func match(pattern, path string) (name string, ok bool) {
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	for i, w := range want {
		if w == "..." {
			return name, true
		}
		if i >= len(have) {
			return "", false
		}
		if ok, err := pathpkg.Match(w, have[i]); err != nil || !ok {
			return "", false
		}
		if w == "*" && name == "" {
			name = have[i]
		}
	}
	return name, len(want) == len(have)
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct {
		pattern, path, name string
		ok                  bool
	}{
		{"platform/...", "platform/store", "", true},
		{"platform/...", "platform", "", true},
		{"platform/...", "platforms/store", "", false},
		{"services/*", "services/user", "user", true},
		{"services/*", "services/user/app", "", false},
		{"services/*/cmd/*", "services/user/cmd/userd", "user", true},
		{"services/*/...", "services/user/internal/rpc", "user", true},
		{"platform/*test", "platform/pgtest", "", true},
		{"platform/*test", "platform/pg", "", false},
		{"net", "net", "", true},
		{"net", "net/http", "", false},
	} {
		if name, ok := match(tc.pattern, tc.path); name != tc.name && tc.ok || ok != tc.ok {
			t.Errorf("match(%q, %q) = %q, %t; want %q, %t", tc.pattern, tc.path, name, ok, tc.name, tc.ok)
		}
	}
}

// workspace lists the packages of all modules.
func workspace(t *testing.T) []pkg {
	t.Helper()
	// -e: what does not compile is some other test's failure.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Name,Imports,TestImports,XTestImports", "work")
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("list the workspace's packages: %v\n%s", err, stderr.Bytes())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			if len(all) < 10 {
				t.Fatalf("go list found only %d packages", len(all))
			}
			return all
		case err != nil:
			t.Fatalf("read the list of packages: %v", err)
		}
		all = append(all, p)
	}
}

// root is the directory of go.work.
func root(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOWORK").Output()
	if err != nil {
		t.Fatalf("find the workspace: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// goFiles lists the Go files below dir, relative to root.
func goFiles(t *testing.T, root, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && strings.HasSuffix(path, ".go") {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			files = append(files, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("list Go files: %v", err)
	}
	return files
}
