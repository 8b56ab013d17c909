package pgtest_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/pg/pgtest"
)

const childEnv = "PGTEST_CHILD"

func TestMain(m *testing.M) {
	pgtest.Main(m)
}

func TestDatabasesAreApart(t *testing.T) {
	builds := 0
	schema := pgtest.Schema("apart", func(ctx context.Context, dsn string) error {
		builds++
		conn, err := pgx.Connect(ctx, dsn)
		if err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, "create table t (n int)"); err != nil {
			return err
		}
		return conn.Close(ctx)
	})
	a, b := pgtest.New(t, schema), pgtest.New(t, schema)
	if _, err := a.Pool.Exec(t.Context(), "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := b.Pool.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
		t.Errorf("rows in the other database: %d, %v; want 0", n, err)
	}
	if builds != 1 {
		t.Errorf("the template was filled %d times, want once", builds)
	}
}

func TestDropsDatabaseWithReplicationSlot(t *testing.T) {
	t.Run("uses", func(t *testing.T) {
		db := pgtest.New(t)
		if _, err := db.Pool.Exec(t.Context(), "select pg_create_logical_replication_slot('left_behind', 'pgoutput')"); err != nil {
			t.Fatal(err)
		}
	})
	var n int
	if err := pgtest.New(t).Pool.QueryRow(t.Context(), "select count(*) from pg_replication_slots").Scan(&n); err != nil || n != 0 {
		t.Errorf("replication slots left: %d, %v; want 0", n, err)
	}
}

// TestChild is the test process that TestServerDiesWithItsProcess kills.
func TestChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("runs only as a child of TestServerDiesWithItsProcess")
	}
	var pid int
	var dir string
	row := pgtest.New(t).Pool.QueryRow(t.Context(), "select split_part(pg_read_file('postmaster.pid'), e'\\n', 1)::int, current_setting('data_directory')")
	if err := row.Scan(&pid, &dir); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nserver %d %s\n", pid, dir)
	select {}
}

func TestServerDiesWithItsProcess(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	var data string
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "server %d %s", &pid, &data); err != nil {
			continue
		}
	}
	if pid == 0 {
		t.Fatal("the child did not start a server")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	waitFor(t, "the server to end", func() bool { return syscall.Kill(pid, 0) != nil })
	// The next server to start sweeps what the dead process left.
	pgtest.NewServer(t, nil)
	if dir := strings.TrimSuffix(data, "/data"); exists(dir) {
		t.Errorf("%s is still there", dir)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}
