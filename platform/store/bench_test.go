package store_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
)

// Benchmarks that compare take turns, so that what else the machine does meets all of them.
var rounds = flag.Int("rounds", 1, "rounds of a benchmark that compares")

// benchClients write at the same time, each to a user of its own, so that nobody waits for a row.
const benchClients = 8

// BenchmarkWrite compares a write of one field (store) with pgbench running the statements of such a write, taken from the server's log, in as many round trips
// (same-sql), and with pgbench updating one row (one-row). All run on one server that flushes to the disk and waits for its standby.
//
// server-µs/op is user and system time of primary and standby, client-µs/op that of who writes.
func BenchmarkWrite(b *testing.B) {
	r, servers := newDurableRegion(b)
	users := make([]id.ID, benchClients)
	for i := range users {
		users[i] = newID(b, uint16(i))
		r.mustSet(b, users[i], own(users[i]), "title", "before")
	}
	sameSQL := r.captureScript(b, users)
	oneRow := r.oneRowScript(b)
	variants := []struct{ name, script string }{
		{"store", ""},
		{"same-sql", sameSQL},
		{"one-row", oneRow},
	}
	for round := range *rounds {
		for _, v := range variants {
			b.Run(fmt.Sprintf("round=%d/%s", round+1, v.name), func(b *testing.B) {
				before := serverCPU(b, servers)
				var m measured
				if v.script == "" {
					m = r.writeMany(b, users)
				} else {
					m = r.pgbench(b, v.script)
				}
				used := serverCPU(b, servers) - before
				b.ReportMetric(m.tps, "tps")
				b.ReportMetric(float64(used.Microseconds())/float64(m.n), "server-µs/op")
				b.ReportMetric(float64(m.client.Microseconds())/float64(m.n), "client-µs/op")
			})
		}
	}
}

// measured are n transactions.
type measured struct {
	n      int
	tps    float64
	client time.Duration // CPU
}

// newDurableRegion is a region of one shard whose commits are on the disks of a primary and its synchronous standby. Servers are their data directories.
func newDurableRegion(b *testing.B) (r *region, servers []string) {
	b.Helper()
	primary := pgtest.NewServer(b, map[string]string{
		"fsync": "on", "full_page_writes": "on", "max_wal_size": "2GB", "log_line_prefix": "",
		"logging_collector": "on", "log_destination": "jsonlog", "log_filename": "bench", // for captureScript
	})
	db := pgtest.New(b, pgtest.On(primary))
	standby := pgtest.NewStandby(b, primary, "standby")
	for _, sql := range []string{"alter system set synchronous_standby_names = 'standby'", "select pg_reload_conf()"} {
		if _, err := db.Pool.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() { // before the standby ends, for whom dropping the database would wait
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 10*time.Second)
		defer cancel()
		for _, sql := range []string{"alter system reset synchronous_standby_names", "select pg_reload_conf()"} {
			if _, err := db.Pool.Exec(ctx, sql); err != nil {
				b.Error(err)
			}
		}
	})
	r = newRegionOn(b, 1, db)
	state := ""
	for deadline := time.Now().Add(time.Minute); state != "sync"; {
		if err := db.Pool.QueryRow(b.Context(), "select coalesce(max(sync_state), '') from pg_stat_replication").Scan(&state); err != nil {
			b.Fatal(err)
		}
		if time.Now().After(deadline) {
			b.Fatalf("the standby is %q, not synchronous", state)
		}
	}
	return r, []string{dataDirectory(b, primary), dataDirectory(b, standby)}
}

// writeMany writes b.N times.
func (r *region) writeMany(b *testing.B, users []id.ID) measured {
	b.Helper()
	before := processCPU(b)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, len(users))
	began := time.Now()
	for i, user := range users {
		wg.Go(func() {
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				if _, err := r.set(b.Context(), user, own(user), "title", fmt.Sprintf("%06d", n)); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return measured{n: b.N, tps: float64(b.N) / took.Seconds(), client: processCPU(b) - before}
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCPU is the user and system time of servers: of all their processes, and of those that have ended.
func serverCPU(b *testing.B, servers []string) time.Duration {
	b.Helper()
	const tick = 10 * time.Millisecond // USER_HZ
	roots := make(map[string]bool)
	for _, dir := range servers {
		pidFile, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
		if err != nil {
			b.Fatal(err)
		}
		pid, _, _ := strings.Cut(string(pidFile), "\n")
		roots[pid] = true
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	var ticks int64
	for _, name := range stats {
		stat, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// After the name in parentheses: state, parent, …; the 14th to 17th field of all are the times, its own and its ended children's.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if !roots[fields[1]] && !roots[filepath.Base(filepath.Dir(name))] {
			continue
		}
		for _, f := range fields[11:15] {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * tick
}
