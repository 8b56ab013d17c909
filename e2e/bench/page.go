package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// about says what a run was made on.
type about struct {
	date      string
	commit    string
	processor string
	cores     int
	memoryGiB float64
	system    string
	load      string // before the run
}

func describe(ctx context.Context) (about, error) {
	a := about{date: time.Now().UTC().Format(time.DateOnly), cores: runtime.NumCPU(), system: runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH}
	head, err := output(ctx, "git", "rev-parse", "--short=12", "HEAD")
	if err != nil {
		return a, err
	}
	changed, err := output(ctx, "git", "status", "--porcelain", "--", ".", ":!"+page, ":!"+dnsPage)
	if err != nil {
		return a, err
	}
	if a.commit = head; changed != "" {
		a.commit += ", with changes that are not committed"
	}
	if a.processor, err = inFile("/proc/cpuinfo", `(?m)^model name\s*:\s*(.+)$`); err != nil {
		a.processor = "unknown processor" // not every architecture tells
	}
	kib, err := inFile("/proc/meminfo", `(?m)^MemTotal:\s*(\d+) kB$`)
	if err != nil {
		return a, err
	}
	n, err := strconv.ParseFloat(kib, 64)
	if err != nil {
		return a, fmt.Errorf("read the machine's memory: %w", err)
	}
	a.memoryGiB = n / (1 << 20)
	a.load, err = inFile("/proc/loadavg", `^(\S+)`)
	return a, err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(bytes.TrimSpace(out)), nil
}

// inFile is what a pattern's group matches in a file.
func inFile(name, pattern string) (string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("describe the machine: %w", err)
	}
	m := regexp.MustCompile(pattern).FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("describe the machine: nothing in %s matches %s", name, pattern)
	}
	return string(bytes.TrimSpace(m[1])), nil
}

// head is a table of what a run of a command was made on.
func (a about) head(command string, r results) string {
	return fmt.Sprintf(`| | |
|---|---|
| command | `+"`%s`"+` |
| date | %s |
| commit | %s |
| machine | %d cores (%s), %.1f GiB of memory, load %s before the run |
| with | %s |
| rounds | %d, in which what is compared takes turns |
`, command, a.date, a.commit, a.cores, a.processor, a.memoryGiB, a.load, a.system, r.rounds())
}

// dnsPage is the whole of docs/benchmarks-dns.md.
func (a about) dnsPage(table string, r results) string {
	return fmt.Sprintf(`# Benchmarks of the name server

What an answer for the nearest regions costs, beside servers that answer the same to everybody, measured in the same run on the same machine. This page is what `+"`make bench-dns`"+` writes; change `+"`e2e/bench`"+`, not the page.

%s
%s
A ratio is taken within each round; "ratio" is the median of the rounds, and so are the values.

## How it is measured

dnsperf asks over UDP on loopback for api.antipode.test and cdn.antipode.test, as fast as it can with 100 queries under way from 8 sockets. Every answer has three addresses. With a subnet, each query has an EDNS client subnet, by which our
server chooses, and which it echoes; the others pass it over. CPU is user and system time of the server's process. dnsperf takes a part of the same cores, and load from elsewhere lowers queries per second; CPU says more.

- **geodns** is the program as it runs in a region: CoreDNS with the plugin geo, three regions, five places, counters, and a controller that sends a snapshot each second.
- **CoreDNS** is the same version in a program that has only its plugins bind and hosts, with the addresses in its configuration.
- **BIND** is Debian's named, with the addresses in a zone, without recursion, and with minimal responses, so that answers are as long as ours.
`, a.head("make bench-dns", r), table)
}

// page is the whole of docs/benchmarks.md.
func (a about) page(table string, r results) string {
	return fmt.Sprintf(`# Benchmarks

What this system costs, beside a reference that was measured in the same run on the same machine. Absolute numbers are the machine's; ratios say more. This page is
what `+"`make bench`"+` writes; change `+"`e2e/bench`"+`, not the page.

%s
%s
A ratio is taken within each round; "ratio" is the median of the rounds, and so are the values.

## How it is measured

- **Cached GET.** One client, one connection, one request after the other, for a user with address and phone numbers. The service is the one that `+"`userd`"+` runs, with access token, causal token, validation, metrics and
  problem documents, before a real Redis; fewer than 1 %% of the answers may come from elsewhere. CPU is user and system time of the process without the client's thread, and that of redis-server. The references answer the same user from memory.
- **Fenced write.** Eight writers, each to a user of its own, to one PostgreSQL server with `+"`fsync`"+` and a synchronous standby, on the same disk. The write is `+"`store.Write`"+` of one field: lock, fence, causality row, records, upserts,
  logical message, in two round trips. pgbench (`+"`-M prepared`"+`) runs the statements that the server logged for such writes, with their values, pipelined in as many round trips; what it leaves out is deciding and encoding.
  CPU of PostgreSQL is that of all its processes, on the primary and on the standby.
- **Lag.** The local world, with all of its regions on the one machine. A sample begins when the writer in us-east has its answer, and ends when a GET with the causal token, sent then to the other region, is answered: what a person
  sees. Clients are 1 ms from their regions, and a waiting GET looks every 10 ms. Writes come at a rate, also while earlier ones are under way, through the REST API, on %d users in turn. The link's delay is half of what a TCP connection needs from one region to the other.
`, a.head("make bench", r), table, lagUsers)
}
