package main

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// results are what was measured: by variant ("Write/store"), unit and round, which counts from 1.
type results map[string]map[string]map[int]float64

// read takes up lines of the Go benchmark format whose names are Benchmark/round=N/variant; other lines say nothing to it.
func (r results) read(from io.Reader) error {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		parts := strings.Split(withoutProcs(fields[0]), "/")
		if len(parts) != 3 || !strings.HasPrefix(parts[1], "round=") {
			return fmt.Errorf("%s is no round of a variant", fields[0])
		}
		round, err := strconv.Atoi(strings.TrimPrefix(parts[1], "round="))
		if err != nil {
			return fmt.Errorf("round of %s: %w", fields[0], err)
		}
		variant := strings.TrimPrefix(parts[0], "Benchmark") + "/" + parts[2]
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("%s: %w", fields[0], err)
			}
			r.add(variant, fields[i+1], round, v)
		}
	}
	return lines.Err()
}

func (r results) add(variant, unit string, round int, v float64) {
	if r[variant] == nil {
		r[variant] = make(map[string]map[int]float64)
	}
	if r[variant][unit] == nil {
		r[variant][unit] = make(map[int]float64)
	}
	r[variant][unit][round] = v
}

// withoutProcs takes the number of processors from the end of a name.
func withoutProcs(name string) string {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return name
	}
	if _, err := strconv.Atoi(name[i+1:]); err != nil {
		return name
	}
	return name[:i]
}

// rounds is the number of rounds that every variant has; 0 when they differ.
func (r results) rounds() int {
	n := 0
	for _, units := range r {
		for _, values := range units {
			if n != 0 && len(values) != n {
				return 0
			}
			n = len(values)
		}
	}
	return n
}

// quantity is a measured value: the sum of units of a variant.
type quantity struct {
	variant string
	units   []string
}

// of is the quantity round by round.
func (q quantity) of(r results) (map[int]float64, error) {
	sum := make(map[int]float64)
	for _, unit := range q.units {
		values, ok := r[q.variant][unit]
		if !ok {
			return nil, fmt.Errorf("%s has no %s: %v", q.variant, unit, slices.Sorted(maps.Keys(r[q.variant])))
		}
		for round, v := range values {
			sum[round] += v
		}
	}
	return sum, nil
}

// comparison is one line of the table.
type comparison struct {
	what, than string
	unit       string // as people read it
	ours, ref  quantity
}

func comparisons(short bool) []comparison {
	const cpu, hop = "server-µs/op", "grpc-gateway before one more hop over gRPC"
	all := []comparison{
		{
			"cached GET over REST: CPU of the service and of Redis", "bare grpc-gateway in process", "µs",
			quantity{"CachedGet/cached", []string{cpu, "redis-µs/op"}},
			quantity{"CachedGet/bare", []string{cpu}},
		},
		{
			"cached GET over REST: CPU of the service and of Redis", hop, "µs",
			quantity{"CachedGet/cached", []string{cpu, "redis-µs/op"}},
			quantity{"CachedGet/hop", []string{cpu}},
		},
		{
			"cached GET over REST: CPU of the service alone", "bare grpc-gateway in process", "µs",
			quantity{"CachedGet/cached", []string{cpu}},
			quantity{"CachedGet/bare", []string{cpu}},
		},
		{
			"cached GET over REST: CPU of the service alone", "the same where nobody is asked who calls", "µs",
			quantity{"CachedGet/cached", []string{cpu}},
			quantity{"CachedGet/open", []string{cpu}},
		},
	}
	for _, ref := range []struct{ variant, name string }{{"Write/same-sql", "pgbench, same SQL"}, {"Write/one-row", "pgbench, update of one row"}} {
		for _, m := range []struct {
			what, unit string
			units      []string
		}{
			{"fenced write: throughput", "1/s", []string{"tps"}},
			{"fenced write: CPU of PostgreSQL", "µs", []string{cpu}},
			{"fenced write: CPU of PostgreSQL and of the writer", "µs", []string{cpu, "client-µs/op"}},
		} {
			all = append(all, comparison{m.what, ref.name, m.unit, quantity{"Write/store", m.units}, quantity{ref.variant, m.units}})
		}
	}
	if short {
		return all
	}
	for _, region := range []string{"eu-west", "ap-south"} {
		for _, rate := range []string{"10", "40"} {
			for _, p := range []string{"p50", "p95", "p99"} {
				all = append(all, comparison{
					fmt.Sprintf("us-east → %s, %s writes/s: lag, %s", region, rate, p), "one-way delay of the link", "ms",
					quantity{"Lag/rate=" + rate, []string{region + "-" + p + "-ms"}},
					quantity{"Lag/link", []string{region + "-ms"}},
				})
			}
		}
	}
	return all
}

func dnsComparisons() []comparison {
	var all []comparison
	for _, m := range []struct{ what, unit, measured string }{{"CPU of a query", "µs", "server-µs/op"}, {"queries a second", "1/s", "queries/s"}} {
		for _, ref := range []struct{ variant, name string }{{"coredns", "CoreDNS with fixed addresses"}, {"bind", "BIND with a zone"}} {
			for _, kind := range []struct{ variant, name string }{{"plain", "no subnet"}, {"subnet", "with a subnet"}} {
				all = append(all, comparison{
					m.what + ", " + kind.name, ref.name, m.unit,
					quantity{"Names/geo-" + kind.variant, []string{m.measured}},
					quantity{"Names/" + ref.variant + "-" + kind.variant, []string{m.measured}},
				})
			}
		}
	}
	return all
}

// table is Markdown that can be read as it is.
func (r results) table(all []comparison) (string, error) {
	rows := [][]string{{"ratio", "lowest – highest", "what", "compared with", "measured", "reference"}}
	for _, c := range all {
		ours, err := c.ours.of(r)
		if err != nil {
			return "", err
		}
		ref, err := c.ref.of(r)
		if err != nil {
			return "", err
		}
		var ratios []float64
		for round, v := range ours {
			if ref[round] <= 0 {
				return "", fmt.Errorf("%s: the reference, %s, is %v in round %d", c.what, c.than, ref[round], round)
			}
			ratios = append(ratios, v/ref[round])
		}
		rows = append(rows, []string{
			number(median(ratios)), number(slices.Min(ratios)) + " – " + number(slices.Max(ratios)), c.what, c.than,
			number(median(slices.Collect(maps.Values(ours)))) + " " + c.unit, number(median(slices.Collect(maps.Values(ref)))) + " " + c.unit,
		})
	}
	return align(rows), nil
}

func median(values []float64) float64 {
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// number has three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// align makes a Markdown table of rows, the first of which is the head. Columns are as wide as their widest cell.
func align(rows [][]string) string {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	var out strings.Builder
	for n, row := range rows {
		for i, cell := range row {
			fmt.Fprintf(&out, "| %s%s ", cell, strings.Repeat(" ", width[i]-len([]rune(cell))))
		}
		out.WriteString("|\n")
		if n == 0 {
			for _, w := range width {
				out.WriteString("|" + strings.Repeat("-", w+2))
			}
			out.WriteString("|\n")
		}
	}
	return out.String()
}
