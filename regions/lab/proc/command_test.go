package proc_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/regions/lab/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree starts a shell that leaves behind a process whose parent is gone, as Patroni does with PostgreSQL, and one child of its own.
func tree(t *testing.T) (*proc.Command, proc.Main) {
	t.Helper()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	launcher := proc.NewLauncher()
	t.Cleanup(launcher.Close)
	c := &proc.Command{
		Argv: []string{"/bin/sh", "-c", `(cd data && setsid sleep 1000 & ) ; sleep 1000 & wait`},
		Env:  []string{"PATH=/usr/bin:/bin"}, Dir: dir, LogFile: filepath.Join(dir, "log"),
		Launch: func(start func() error) error { return launcher.Do(func() error { return nil }, start) },
		Grace:  500 * time.Millisecond,
	}
	main, err := c.Start()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = main.Wait() }()
	t.Cleanup(func() {
		if err := c.Signal(context.WithoutCancel(t.Context()), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		<-ended
	})
	for deadline := time.Now().Add(10 * time.Second); ; {
		members, err := c.Members()
		if err != nil {
			t.Fatal(err)
		}
		if len(members) == 3 && members[0].PPID != os.Getpid() && members[0].PPID != main.PID() {
			return c, main
		}
		if time.Now().After(deadline) {
			t.Fatalf("the component has processes %+v, want an orphan, the shell and its child", members)
		}
	}
}

func TestMembersListsOrphansBeforeTheMainProcess(t *testing.T) {
	c, main := tree(t)
	members, err := c.Members()
	if err != nil {
		t.Fatal(err)
	}
	if members[0].Dir != filepath.Join(c.Dir, "data") || members[1].PID != main.PID() || members[2].PPID != main.PID() {
		t.Errorf("members are %+v; main is %d", members, main.PID())
	}
}

// Whoever waits may do so a little longer: dozens of processes share a machine.
func TestWaitsOfWhatIsStartedMayEndLate(t *testing.T) {
	launcher := proc.NewLauncher()
	t.Cleanup(launcher.Close)
	dir := t.TempDir()
	c := &proc.Command{
		Argv: []string{"/bin/sh", "-c", "sh -c 'cat /proc/self/timerslack_ns'"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: dir, LogFile: filepath.Join(dir, "log"),
		Launch: func(start func() error) error { return launcher.Do(func() error { return nil }, start) },
	}
	main, err := c.Start()
	if err != nil {
		t.Fatal(err)
	}
	if err := main.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(c.LogFile); err != nil || string(got) != "2000000\n" {
		t.Errorf("a child's slack is %q, %v, want 2 ms", got, err)
	}
}

func TestKillReachesEverything(t *testing.T) {
	c, _ := tree(t)
	if err := c.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if members, err := c.Members(); err != nil || len(members) > 0 {
		t.Errorf("after a kill there are %+v, %v", members, err)
	}
}

func TestPauseReachesEverything(t *testing.T) {
	c, _ := tree(t)
	if err := c.Signal(t.Context(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	members, err := c.Members()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range members {
		waitStat(t, p.PID, "T")
	}
	if err := c.Signal(t.Context(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, p := range members {
		waitStat(t, p.PID, "S")
	}
}

func TestTerminateUsesForceAfterTheGrace(t *testing.T) {
	c, _ := tree(t) // the orphan is told by nobody
	began := time.Now()
	if err := c.Terminate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < c.Grace {
		t.Errorf("it took %v, less than the grace of %v", took, c.Grace)
	}
	if members, err := c.Members(); err != nil || len(members) > 0 {
		t.Errorf("after the end there are %+v, %v", members, err)
	}
}

func waitStat(t *testing.T, pid int, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(text), ") ")
		if strings.HasPrefix(after, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is in state %.1s, want %s", pid, after, want)
		}
	}
}

func TestWithinIsAboutDirectoriesNotPrefixes(t *testing.T) {
	all := []proc.Process{{PID: 1, Dir: "/d/pg-s1-1"}, {PID: 2, Dir: "/d/pg-s1-10"}, {PID: 3, Dir: "/d/pg-s1-1/data"}, {PID: 4, Dir: "/"}}
	got := proc.Within(all, "/d/pg-s1-1")
	if len(got) != 2 || got[0].PID != 1 || got[1].PID != 3 {
		t.Errorf("within /d/pg-s1-1 are %+v", got)
	}
}
