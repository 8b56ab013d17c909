package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"antipode.example/platform/id"
	"antipode.example/platform/pg/pgtest"
)

func dataDirectory(b *testing.B, s *pgtest.Server) string {
	b.Helper()
	conn, err := pgx.Connect(b.Context(), s.DSN("postgres"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(b.Context())
	var dir string
	if err := conn.QueryRow(b.Context(), "show data_directory").Scan(&dir); err != nil {
		b.Fatal(err)
	}
	return dir
}

// statement is one that a session ran, with the values of its parameters; nil is null.
type statement struct {
	sql    string
	values []*string
}

// captureScript makes a script for pgbench of what the store sends for one write: the same statements, in the same two round trips. The values are from a write of
// each of the users; pgbench's clients fetch them once, from table bench_write.
func (r *region) captureScript(b *testing.B, users []id.ID) string {
	b.Helper()
	db := r.dbs[0].Pool
	for _, sql := range []string{"alter system set log_statement = 'all'", "select pg_reload_conf()"} {
		if _, err := db.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	var writes [][]statement
	for _, user := range users {
		// The pool's sessions read the new setting between two transactions, in their own time.
		deadline := time.Now().Add(time.Minute)
		for had := len(r.logged(b)); len(r.logged(b)) == had; {
			r.mustSet(b, user, own(user), "title", "as captured")
			if time.Now().After(deadline) {
				b.Fatal("the server logs no statements")
			}
		}
		all := r.logged(b)
		writes = append(writes, all[len(all)-1])
	}
	for _, sql := range []string{"alter system reset log_statement", "select pg_reload_conf()"} {
		if _, err := db.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	return r.script(b, writes)
}

// logged are the transactions of the store in the server's log, each from BEGIN to COMMIT.
func (r *region) logged(b *testing.B) [][]statement {
	b.Helper()
	var text string
	if err := r.dbs[0].Pool.QueryRow(b.Context(), "select pg_read_file(pg_current_logfile('jsonlog'))").Scan(&text); err != nil {
		b.Fatal(err)
	}
	var all [][]statement
	var tx []statement
	for line := range strings.Lines(text) {
		var e struct{ User, Message, Detail string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.Fatalf("read the server's log: %v: %s", err, line)
		}
		how, sql, ok := strings.Cut(e.Message, ": ")
		if e.User != r.config.User || !ok || !strings.HasPrefix(how, "execute ") {
			continue
		}
		s := statement{sql: strings.Join(strings.Fields(sql), " ")}
		if values, ok := strings.CutPrefix(e.Detail, "parameters: "); ok {
			s.values = parameters(b, values)
		}
		if strings.HasPrefix(s.sql, "begin") {
			tx = nil
		}
		tx = append(tx, s)
		if s.sql == "commit" && strings.HasPrefix(tx[0].sql, "begin") { // a session may have begun to log in the midst of one
			all = append(all, tx)
		}
	}
	return all
}

var parameter = regexp.MustCompile(`^\$\d+ = (?:(NULL)|'((?:[^']|'')*)')(?:, )?`)

// parameters reads `$1 = 'it”s', $2 = NULL`.
func parameters(b *testing.B, text string) []*string {
	b.Helper()
	var values []*string
	for text != "" {
		m := parameter.FindStringSubmatch(text)
		if m == nil {
			b.Fatalf("parameters in the server's log: %s", text)
		}
		text = text[len(m[0]):]
		if m[1] != "" {
			values = append(values, nil)
			continue
		}
		v := strings.ReplaceAll(m[2], "''", "'")
		values = append(values, &v)
	}
	return values
}

var placeholder = regexp.MustCompile(`\$(\d+)`)

func (r *region) script(b *testing.B, writes [][]statement) string {
	b.Helper()
	first := writes[0]
	second := slices.IndexFunc(first, func(s statement) bool { return strings.HasPrefix(s.sql, "insert into records") })
	if second < 0 {
		b.Fatalf("no statement writes records: %v", first)
	}
	var script bytes.Buffer
	var columns []string
	for i, s := range first {
		if i == second {
			fmt.Fprint(&script, "\\endpipeline\n\\startpipeline\n")
		}
		fmt.Fprintln(&script, placeholder.ReplaceAllString(s.sql, fmt.Sprintf(":s%d_$1", i))+";")
		for j := range s.values {
			columns = append(columns, fmt.Sprintf("s%d_%d", i, j+1))
		}
	}
	db := r.dbs[0].Pool
	if _, err := db.Exec(b.Context(), "create table bench_write (client int primary key, "+strings.Join(columns, " text, ")+" text)"); err != nil {
		b.Fatal(err)
	}
	for client, write := range writes {
		row := []any{client}
		for i, s := range write {
			if i >= len(first) || s.sql != first[i].sql || len(s.values) != len(first[i].values) {
				b.Fatalf("two writes differ: %v and %v", write, first)
			}
			for _, v := range s.values {
				if v == nil {
					b.Fatalf("pgbench has no nulls: %s", s.sql)
				}
				row = append(row, v)
			}
		}
		if _, err := db.CopyFrom(b.Context(), pgx.Identifier{"bench_write"}, append([]string{"client"}, columns...), pgx.CopyFromRows([][]any{row})); err != nil {
			b.Fatal(err)
		}
	}
	if _, err := db.Exec(b.Context(), "alter table bench_write owner to "+r.config.User); err != nil {
		b.Fatal(err)
	}
	return "\\if :fetched = 0\nselect * from bench_write where client = :client_id \\gset\n\\set fetched 1\n\\endif\n\\startpipeline\n" + script.String() + "\\endpipeline\n"
}

// oneRowScript updates 100 bytes in one row, each client its own.
func (r *region) oneRowScript(b *testing.B) string {
	b.Helper()
	for _, sql := range []string{
		"create table bench_row (id int primary key, body text)",
		fmt.Sprintf("insert into bench_row select i, '' from generate_series(0, %d) i", benchClients-1),
		"alter table bench_row owner to " + r.config.User,
	} {
		if _, err := r.dbs[0].Pool.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	return "update bench_row set body = '" + strings.Repeat("x", 100) + "' where id = :client_id;\n"
}

var pgbenchTPS = regexp.MustCompile(`(?m)^tps = ([0-9.]+) \(without`)

// pgbench runs a script b.N times or a few times more, as the store's user.
func (r *region) pgbench(b *testing.B, script string) measured {
	b.Helper()
	file := filepath.Join(b.TempDir(), "script.sql")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		b.Fatal(err)
	}
	program := "/usr/lib/postgresql/15/bin/pgbench"
	if dir := os.Getenv("PGTEST_BIN"); dir != "" {
		program = filepath.Join(dir, "pgbench")
	} else if _, err := os.Stat(program); err != nil {
		program = "pgbench"
	}
	host, port, _ := strings.Cut(r.dbs[0].Addr, ":")
	each := (b.N + benchClients - 1) / benchClients
	cmd := exec.CommandContext(b.Context(), program, "-n", "-M", "prepared", "-c", strconv.Itoa(benchClients), "-j", "1", "-t", strconv.Itoa(each),
		"-D", "fetched=0", "-f", file, "-h", host, "-p", port, "-U", r.config.User, r.dbs[0].Name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s\n%s", err, out, script)
	}
	m := pgbenchTPS.FindSubmatch(out)
	done := fmt.Sprintf("number of transactions actually processed: %d/%d\n", each*benchClients, each*benchClients)
	if m == nil || !bytes.Contains(out, []byte(done)) {
		b.Fatalf("pgbench did not do all: %s", out)
	}
	tps, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return measured{n: each * benchClients, tps: tps, client: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
}
