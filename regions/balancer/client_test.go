package balancer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The phases are shown on a real HAProxy beside its template, in regions/lab/engine. Here is what one that is not ours answers.

// api answers each command as HAProxy's runtime API does.
func api(t *testing.T, answer func(command string) string) Client {
	t.Helper()
	address := filepath.Join(t.TempDir(), "socket")
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "unix", address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				command, err := bufio.NewReader(conn).ReadString('\n')
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer(strings.TrimSpace(command))) // the client is who complains
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); serving.Wait() })
	return Client{Network: "unix", Address: address}
}

const head = "# pxname,svname,qcur,qmax,scur,status,\n"

func stat(rows ...string) string {
	text := head
	for _, r := range rows {
		proxy, rest, _ := strings.Cut(r, "/")
		server, status, _ := strings.Cut(rest, " ")
		text += fmt.Sprintf("%s,%s,0,0,%d,%s,\n", proxy, server, len(server), status)
	}
	return text + "\n"
}

var sound = []string{ //nolint:gochecknoglobals // a constant that Go can't express
	"entrances/1 no check", "entrances/2 MAINT", "entrances/BACKEND UP", "entrance-1/FRONTEND OPEN", "phase/closing MAINT", "phase/forwarding MAINT", "phase/closed MAINT",
	"user/BACKEND UP", "once/BACKEND UP", "elsewhere/south MAINT", "elsewhere/west DOWN 1/2", "elsewhere/east UP",
}

func TestBalancersThatAreNotOurs(t *testing.T) {
	without := func(start string) string {
		return stat(slices.DeleteFunc(slices.Clone(sound), func(r string) bool { return strings.HasPrefix(r, start) })...)
	}
	for want, answer := range map[string]string{
		"it is no table":                  "Unknown command\n",
		"it has no column scur":           "# pxname,svname,status,\n",
		`has "x" sessions`:                head + "user,BACKEND,0,0,x,UP,\n",
		"wrong number of fields":          head + "user,BACKEND\n",
		"no server phase/closing":         without("phase/closing"),
		"no open server of entrances":     without("entrances/"),
		`refuses "set server entrances`:   stat(sound...),
		"has no phase \"ajar\"":           stat(sound...),
		"knows no region nowhere: it was": stat(sound...),
	} {
		c := api(t, func(command string) string {
			if command == "show stat" {
				return answer
			}
			if strings.Contains(want, "refuses") {
				return "Permission denied\n"
			}
			return "\n"
		})
		phase := Closing
		if strings.Contains(want, "ajar") {
			phase = "ajar"
		}
		err := c.Phase(t.Context(), phase)
		if strings.Contains(want, "nowhere") {
			err = c.Targets(t.Context(), []string{"nowhere"})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestStatus(t *testing.T) {
	c := api(t, func(string) string { return stat(sound...) })
	s, err := c.Status(t.Context())
	if err != nil || s.Phase != Open || s.Sessions != len("BACKEND") || s.Entrances != 1 || len(s.Targets) != 2 || s.Targets["west"] || !s.Targets["east"] {
		t.Errorf("%+v, %v", s, err)
	}
}

// What is as it should be gets no order.
func TestOrdersAreGivenOnce(t *testing.T) {
	c := api(t, func(command string) string {
		if command != "show stat" {
			return "this order is not needed"
		}
		return stat(sound...)
	})
	if err := c.Phase(t.Context(), Open); err != nil {
		t.Error(err)
	}
	if err := c.Targets(t.Context(), []string{"east", "west"}); err != nil {
		t.Error(err)
	}
}
