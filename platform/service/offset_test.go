package service

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"antipode.example/platform/hlc"
)

func TestOffsetClock(t *testing.T) {
	file := filepath.Join(t.TempDir(), "us-east")
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		c := newOffsetClock(hlc.System{}, file, slog.New(slog.NewTextHandler(&logged, nil)))
		off := func() time.Duration { return c.Now().Sub(hlc.System{}.Now()) }
		steps := []struct {
			name, text string
			write      func(text string) error
			wait       time.Duration
			want       time.Duration
			log        string // in what this step logs; empty: it logs nothing
		}{
			{"no file", "", nil, 0, 0, ""},
			{"a new file is not seen within the second", "5m\n", put(file), 999 * time.Millisecond, 0, ""},
			{"then it is", "", nil, time.Millisecond, 5 * time.Minute, "clock offset changed"},
			{"behind", "-90s", put(file), time.Second, -90 * time.Second, "clock offset changed"},
			{"not a duration", "soon", put(file), time.Second, -90 * time.Second, "clock offset stays"},
			{"the same is not told again", "", nil, time.Second, -90 * time.Second, ""},
			{"too great", "25h", put(file), time.Second, -90 * time.Second, "more than 24h"},
			{"unreadable", "", func(string) error { return swapForDirectory(file) }, time.Second, -90 * time.Second, "clock offset stays"},
			{"empty", " \n", put(file), time.Second, 0, "clock offset changed"},
			{"ahead again", "+1h", put(file), time.Second, time.Hour, "clock offset changed"},
			{"missing", "", func(string) error { return os.Remove(file) }, time.Second, 0, "clock offset changed"},
		}
		for _, s := range steps {
			logged.Reset()
			if s.write != nil {
				if err := s.write(s.text); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(s.wait)
			if got := off(); got != s.want {
				t.Errorf("%s: offset is %v, want %v", s.name, got, s.want)
			}
			if text := logged.String(); !strings.Contains(text, s.log) || s.log == "" && text != "" {
				t.Errorf("%s: logged %q, want %q", s.name, text, s.log)
			}
		}
	})
}

func put(file string) func(string) error {
	return func(text string) error {
		if err := os.RemoveAll(file); err != nil {
			return err
		}
		return os.WriteFile(file, []byte(text), 0o600)
	}
}

func swapForDirectory(file string) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return os.Mkdir(file, 0o700)
}
