package balancer

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// row is one of the lines of `show stat`.
type row struct {
	proxy, server, status string
	sessions              int
}

// admitted says that a server may get requests, whether or not it is up.
func (r row) admitted() bool { return !strings.HasPrefix(r.status, "MAINT") }

// table is all of them.
type table []row

// table asks for the state of all parts.
func (c Client) table(ctx context.Context) (table, error) {
	const command = "show stat"
	text, err := c.ask(ctx, command)
	if err != nil {
		return nil, err
	}
	t, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("read the answer of the balancer at %s to %q: %w", c.Address, command, err)
	}
	return t, nil
}

// parse reads the CSV of HAProxy, whose first line, a comment, names the columns.
func parse(text string) (table, error) {
	head, rest, ok := strings.Cut(text, "\n")
	if !ok || !strings.HasPrefix(head, "# ") {
		return nil, fmt.Errorf("it is no table: %.80q", text)
	}
	columns := strings.Split(strings.TrimPrefix(head, "# "), ",")
	at := map[string]int{}
	for _, name := range []string{"pxname", "svname", "scur", "status"} {
		if at[name] = slices.Index(columns, name); at[name] < 0 {
			return nil, errors.New("it has no column " + name)
		}
	}
	r := csv.NewReader(strings.NewReader(rest))
	r.FieldsPerRecord = len(columns)
	records, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	t := make(table, 0, len(records))
	for _, record := range records {
		one := row{proxy: record[at["pxname"]], server: record[at["svname"]], status: record[at["status"]]}
		if n := record[at["scur"]]; n != "" {
			if one.sessions, err = strconv.Atoi(n); err != nil {
				return nil, fmt.Errorf("%s/%s has %q sessions", one.proxy, one.server, n)
			}
		}
		t = append(t, one)
	}
	return t, nil
}

func (t table) find(proxy, server string) (row, bool) {
	i := slices.IndexFunc(t, func(r row) bool { return r.proxy == proxy && r.server == server })
	if i < 0 {
		return row{}, false
	}
	return t[i], true
}

func (t table) has(proxy, server string) bool {
	_, ok := t.find(proxy, server)
	return ok
}

// servers are those of a backend, in the order of the configuration.
func (t table) servers(proxy string) []row {
	var all []row
	for _, r := range t {
		if r.proxy == proxy && r.server != "BACKEND" && r.server != "FRONTEND" {
			all = append(all, r)
		}
	}
	return all
}

// phase is the strongest that is in force.
func (t table) phase() Phase {
	for _, flag := range flags {
		if r, ok := t.find(phases, string(flag)); ok && r.admitted() {
			return flag
		}
	}
	return Open
}

// entrance is the number of the one by which new connections come in; 0 when there is none.
func (t table) entrance() int {
	number := 0
	for i, r := range t.servers(entrances) {
		if r.admitted() {
			number = i + 1
		}
	}
	return number
}

// sessions are the requests under way that do not only pass.
func (t table) sessions() int {
	sum := 0
	for _, r := range t {
		if r.server == "BACKEND" && !slices.Contains(passages, r.proxy) {
			sum += r.sessions
		}
	}
	return sum
}
