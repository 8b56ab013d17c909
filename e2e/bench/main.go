// Command bench runs the benchmarks that compare what this system costs with a reference, prints the ratios, and writes them to docs/benchmarks.md, or, those of the name server alone, to docs/benchmarks-dns.md.
// Run it in the repository's root: `make bench` or `make bench-dns`, with BENCH=short to see that it works.
//
// It owns the choice of references and the form of the table; what is measured, and how, is with the code that it measures: BenchmarkCachedGet in
// services/user/internal/rpc, BenchmarkWrite in platform/store, BenchmarkNames in regions/geodns/server, BenchmarkLag here. In each of them the compared variants take turns, for several
// rounds; a ratio is taken within each round, and the median of the rounds is told with the lowest and the highest.
//
// It refuses to judge: no ratio is too high for it. It fails when a benchmark does.
package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// Where the results of a full run go, below the repository's root.
const (
	page    = "docs/benchmarks.md"
	dnsPage = "docs/benchmarks-dns.md"
)

// lagUsers is how many users BenchmarkLag writes to, in turn.
const lagUsers = 200

// suite is one benchmark of the workspace.
type suite struct {
	pkg, bench  string
	time, short string   // -benchtime
	args        []string // for the benchmark itself
	lab         bool     // needs the local world, and root for it
}

var suites = []suite{
	{pkg: "./services/user/internal/rpc", bench: "BenchmarkCachedGet", time: "1s", short: "100ms"},
	{pkg: "./platform/store", bench: "BenchmarkWrite", time: "3s", short: "100x"},
	{pkg: "./e2e/bench", bench: "BenchmarkLag", time: "1x", args: []string{"-each", "10s"}, lab: true},
}

var dnsSuites = []suite{
	{pkg: "./regions/geodns/server", bench: "BenchmarkNames", time: "1x", args: []string{"-each", "5s"}},
}

type options struct {
	short  bool
	dns    bool
	rounds int
	asRoot string
}

func main() {
	var o options
	flag.BoolVar(&o.short, "short", false, "one short round, without the local world; writes nothing")
	flag.BoolVar(&o.dns, "dns", false, "the name server, and nothing else")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds of each benchmark")
	flag.StringVar(&o.asRoot, "exec", "", "program that runs the benchmark of the local world as root, with arguments")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context, o options, out, progress io.Writer) error {
	about, err := describe(ctx)
	if err != nil {
		return err
	}
	if o.short {
		o.rounds = 1
	}
	all := make(results)
	run, compare, file, text := suites, comparisons(o.short), page, about.page
	if o.dns {
		run, compare, file, text = dnsSuites, dnsComparisons(), dnsPage, about.dnsPage
	}
	for _, s := range run {
		if s.lab && o.short {
			continue
		}
		if err := s.run(ctx, o, all, progress); err != nil {
			return err
		}
	}
	if all.rounds() != o.rounds {
		return fmt.Errorf("the benchmarks ran %d rounds of %d", all.rounds(), o.rounds)
	}
	table, err := all.table(compare)
	if err != nil {
		return err
	}
	fmt.Fprint(out, "\n", table)
	if o.short {
		return nil
	}
	if err := os.WriteFile(file, []byte(text(table, all)), 0o644); err != nil { //nolint:gosec // a page of the documentation
		return fmt.Errorf("write the page: %w", err)
	}
	fmt.Fprintf(out, "\nwritten to %s\n", file)
	return nil
}

// run runs a benchmark and takes up what it measured.
func (s suite) run(ctx context.Context, o options, all results, progress io.Writer) error {
	benchtime := s.time
	if o.short {
		benchtime = cmp.Or(s.short, s.time)
	}
	args := []string{"test", "-run", "^$", "-bench", "^" + s.bench + "$", "-benchtime", benchtime, "-count", "1", "-timeout", "15m"}
	if s.lab && o.asRoot != "" {
		args = append(args, "-exec", o.asRoot)
	}
	args = append(args, s.pkg, "-args", "-rounds", fmt.Sprint(o.rounds))
	if !o.short {
		args = append(args, s.args...)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	// An interrupt is for go and the benchmark, which then take away what they have started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&stdout, progress), progress
	if err := cmd.Run(); err != nil {
		return errors.Join(fmt.Errorf("go %s: %w", strings.Join(args, " "), err), ctx.Err())
	}
	if err := all.read(&stdout); err != nil {
		return fmt.Errorf("read what %s printed: %w", s.bench, err)
	}
	return nil
}
