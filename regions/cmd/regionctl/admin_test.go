package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"antipode.example/regions/caller"
	"antipode.example/regions/lab"
)

func TestWhereAPasswordComesFrom(t *testing.T) {
	file := func(text string) *secretSource {
		name := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return &secretSource{file: name}
	}
	for name, test := range map[string]struct {
		from *secretSource
		want string // empty for an error
	}{
		"a file":              {file("a b c\n"), "a b c"},
		"no end of line":      {file(" a b"), " a b"},
		"from another system": {file("abc\r\n"), "abc"},
		"an empty file":       {file(""), ""},
		"an empty line":       {file("\nabc\n"), ""},
		"two lines":           {file("abc\ndef\n"), ""},
		"no file":             {&secretSource{file: "/nosuch"}, ""},
		"asked for":           {&secretSource{prompt: func() (string, error) { return "typed", nil }}, "typed"},
		"not given":           {&secretSource{prompt: func() (string, error) { return "", io.EOF }}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := test.from.read(); got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	made := &secretSource{generate: true}
	if got, err := made.read(); err != nil || len(got) < 20 || got != made.generated {
		t.Errorf("%q, %v", got, err)
	}
}

// terminal is a pseudoterminal: what a program has, and what the person who sits there has.
func terminal(t *testing.T) (program, person *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudoterminals here:", err)
	}
	t.Cleanup(func() { _ = person.Close() }) // nothing is left in it
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = program.Close() })
	return program, person
}

// shows says whether a terminal shows what is typed.
func shows(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// typist types a line at each question, once the terminal no longer shows it.
type typist struct {
	t      *testing.T
	person *os.File
	lines  []string
}

func (p *typist) Write(b []byte) (int, error) {
	if strings.HasSuffix(string(b), ": ") {
		line := p.lines[0]
		p.lines = p.lines[1:]
		go func() { // once the terminal is set: that empties what was typed before
			for shows(p.t, p.person) {
				continue
			}
			_, _ = io.WriteString(p.person, line+"\n") // what it lacks the reader will miss
		}()
	}
	return len(b), nil
}

func TestAPasswordIsTypedTwiceAndUnseen(t *testing.T) {
	for name, test := range map[string]struct{ first, second, want string }{
		"alike":     {"a good password", "a good password", "a good password"},
		"different": {"a good password", "a god password", ""},
	} {
		t.Run(name, func(t *testing.T) {
			program, person := terminal(t)
			got, err := askPassword(t.Context(), program, &typist{t: t, person: person, lines: []string{test.first, test.second}}, "ann@example.com")
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v", got, err)
			}
			if !shows(t, program) {
				t.Error("the terminal stays blind")
			}
		})
	}
	if _, err := askPassword(t.Context(), strings.NewReader("x\n"), io.Discard, "ann@example.com"); err == nil || !strings.Contains(err.Error(), "--generate-password") {
		t.Errorf("without a terminal: %v", err)
	}
}

func TestAnInterruptLeavesTheTerminalAsItWas(t *testing.T) {
	program, _ := terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readUnseen(ctx, program); !errors.Is(err, context.Canceled) || !shows(t, program) {
		t.Errorf("%v", err)
	}
}

func TestAdminAsTextAndJSON(t *testing.T) {
	for want, made := range map[string]madeAdmin{
		"ann@example.com is an administrator: user 1, signed up now password: secret":               {caller.Admin{ID: "1", Email: "ann@example.com", Created: true}, "secret"},
		"ann@example.com is an administrator: user 1, who was there already and keeps the password": {caller.Admin{ID: "1", Email: "ann@example.com"}, ""},
	} {
		var text, asJSON bytes.Buffer
		writeAdmin(&text, made)
		if got := strings.Join(strings.Fields(text.String()), " "); got != want {
			t.Errorf("it says %q", got)
		}
		if err := (&settings{output: "json"}).show(&asJSON, made, nil); err != nil {
			t.Fatal(err)
		}
		var back struct{ ID, Email string }
		if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil || back.ID != "1" || back.Email != "ann@example.com" || strings.Contains(asJSON.String(), "password") != made.Created {
			t.Errorf("%s, %v", asJSON.String(), err)
		}
	}
}

func TestAnAdminNeedsKeys(t *testing.T) {
	status := lab.Status{Dir: t.TempDir(), Regions: []lab.RegionStatus{{Name: "us-east"}}}
	if _, err := (&settings{}).makeAdmin(t.Context(), status, "ann@example.com", false, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}
