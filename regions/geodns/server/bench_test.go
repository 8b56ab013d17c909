package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/hosts"
	"github.com/prometheus/procfs"
	"go.yaml.in/yaml/v3"

	"antipode.example/platform/freeport"
	"antipode.example/regions/geodns"
)

var (
	rounds = flag.Int("rounds", 1, "rounds of a benchmark that compares")
	each   = flag.Duration("each", time.Second, "how long each server is asked in each round, with subnets and without")
)

// childEnv makes this test a server that is measured, in a process of its own: its value is which, and with which configuration.
const childEnv = "GEODNS_TEST_SERVER"

// BenchmarkNames asks our name server, CoreDNS with three addresses of its plugin hosts, and BIND with the same in a zone, one after the other, for the same names over UDP on loopback, as fast as dnsperf can with 100 queries under way. It
// tells queries per second, and user and system time of the server's process for each.
func BenchmarkNames(b *testing.B) {
	for _, program := range []string{"dnsperf", "named"} {
		if _, err := exec.LookPath(program); err != nil {
			b.Skip("needs dnsperf and BIND: tools/deps.sh test")
		}
	}
	servers := []struct {
		name  string
		start func(*testing.B) measured
	}{{"geo", startGeo}, {"coredns", startBare}, {"bind", startBIND}}
	running := make([]measured, len(servers))
	for i, s := range servers {
		running[i] = s.start(b)
	}
	queries := filepath.Join(b.TempDir(), "queries")
	if err := os.WriteFile(queries, []byte("api.antipode.test A\ncdn.antipode.test A\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	for round := range *rounds {
		for i, s := range servers {
			for _, kind := range []struct {
				name string
				args []string
			}{{"plain", nil}, {"subnet", []string{"-e", "-E", "8:000118000a0205"}}} { // 10.2.5.0/24
				b.Run(fmt.Sprintf("round=%d/%s-%s", round+1, s.name, kind.name), func(b *testing.B) {
					before := running[i].cpu(b)
					answered, took := running[i].load(b, queries, kind.args)
					cpu := running[i].cpu(b) - before
					b.ReportMetric(float64(answered)/took.Seconds(), "queries/s")
					b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(answered), "server-µs/op")
				})
			}
		}
	}
}

// measured is a server that runs.
type measured struct {
	at  netip.AddrPort
	pid int
}

var (
	completed = regexp.MustCompile(`Queries completed:\s+(\d+) \(([0-9.]+)%\)`)
	good      = regexp.MustCompile(`Response codes:\s+NOERROR (\d+) \(100.00%\)`)
	runTime   = regexp.MustCompile(`Run time \(s\):\s+([0-9.]+)`)
)

// load asks for as long as the flag says. All queries have to be answered with NOERROR; one in a hundred may be lost.
func (m measured) load(b *testing.B, queries string, args []string) (answered int, took time.Duration) {
	b.Helper()
	args = append([]string{
		"-s", m.at.Addr().String(), "-p", strconv.Itoa(int(m.at.Port())), "-d", queries, "-l", strconv.Itoa(int(max(each.Seconds(), 1))), "-c", "8", "-T", "1", "-q", "100",
	}, args...)
	out, err := exec.CommandContext(b.Context(), "dnsperf", args...).CombinedOutput()
	if err != nil {
		b.Fatalf("dnsperf: %v\n%s", err, out)
	}
	done, seconds := completed.FindSubmatch(out), runTime.FindSubmatch(out)
	if done == nil || seconds == nil || !good.Match(out) {
		b.Fatalf("dnsperf says\n%s", out)
	}
	if share, err := strconv.ParseFloat(string(done[2]), 64); err != nil || share < 99 {
		b.Fatalf("only %.2f %% of the queries were answered: %v", share, err)
	}
	answered, err = strconv.Atoi(string(done[1]))
	s, err2 := strconv.ParseFloat(string(seconds[1]), 64)
	if err = errors.Join(err, err2); err != nil {
		b.Fatal(err)
	}
	return answered, time.Duration(s * float64(time.Second))
}

func (m measured) cpu(b *testing.B) time.Duration {
	b.Helper()
	p, err := procfs.NewProc(m.pid)
	if err != nil {
		b.Fatal(err)
	}
	stat, err := p.Stat()
	if err != nil {
		b.Fatal(err)
	}
	return time.Duration(stat.CPUTime() * float64(time.Second))
}

// run starts a server that listens at an address, and waits until it answers with three addresses.
func run(b *testing.B, at netip.AddrPort, cmd *exec.Cmd) measured {
	b.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &out
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.Errorf("%s: %v\n%s", cmd.Path, err, out.String())
		}
	})
	await(b, cmd.Path+" answers", func() bool {
		a, err := geodns.Ask(b.Context(), new(net.Dialer).DialContext, at, "api.antipode.test", geodns.TypeA, netip.Prefix{})
		return err == nil && len(a.Addresses) == 3
	})
	return measured{at, cmd.Process.Pid}
}

func freeAddr(b *testing.B) netip.AddrPort {
	b.Helper()
	addr, err := freeport.TakeAddr()
	if err != nil {
		b.Fatal(err)
	}
	return netip.MustParseAddrPort(addr)
}

// asChild is this test as a server.
func asChild(server, config string) *exec.Cmd {
	cmd := exec.Command(os.Args[0]) //nolint:noctx // it is stopped by a signal
	cmd.Env = append(os.Environ(), childEnv+"="+server+" "+config)
	return cmd
}

// child is what the child does: the value is that of childEnv.
func child(value string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server, config, _ := strings.Cut(value, " ")
	var err error
	if server == "geo" {
		err = Main(ctx, []string{"serve", "--config", config}, io.Discard, os.Stderr)
	} else {
		err = bare(ctx, config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func startGeo(b *testing.B) measured {
	b.Helper()
	c := newController(b)
	c.sends(b, allActive(1))
	cfg := testConfig(b, c.URL)
	texts := func(addrs []netip.Addr) (all []string) {
		for _, a := range addrs {
			all = append(all, a.String())
		}
		return all
	}
	var regions, places []map[string]any
	for _, r := range cfg.Regions {
		regions = append(regions, map[string]any{"name": r.Name, "api": texts(r.API), "cdn": texts(r.CDN), "ns": texts(r.NS)})
	}
	for _, p := range cfg.Places {
		rtt := map[string]string{}
		for name, d := range p.RTT {
			rtt[name] = d.String()
		}
		places = append(places, map[string]any{"prefix": p.Prefix.String(), "rtt": rtt})
	}
	text, err := yaml.Marshal(map[string]any{
		"zone": cfg.Zone, "self": cfg.Self, "listen": cfg.Listen.String(), "admin_listen": cfg.AdminListen.String(), "controllers": cfg.Controllers, "keys": cfg.Keys, "state": cfg.State, "admitted": cfg.Admitted,
		"regions": regions, "places": places,
	})
	if err != nil {
		b.Fatal(err)
	}
	return run(b, cfg.Listen, asChild("geo", written(b, "config.yaml", string(text))))
}

// bare serves a Corefile until ctx ends.
func bare(ctx context.Context, corefile string) error {
	text, err := os.ReadFile(corefile)
	if err != nil {
		return err
	}
	caddy.Quiet, dnsserver.Quiet = true, true
	if err := dnsserver.SetDirectives([]string{"bind", "hosts"}); err != nil {
		return err
	}
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: corefile, Contents: text, ServerTypeName: "dns"})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return stopCoreDNS(instance)
}

func startBare(b *testing.B) measured {
	b.Helper()
	at := freeAddr(b)
	var hosts strings.Builder
	for r := 1; r <= 3; r++ {
		fmt.Fprintf(&hosts, "198.18.%d.1 api.antipode.test\n198.18.%d.7 cdn.antipode.test\n", r, r)
	}
	return run(b, at, asChild("bare", written(b, "Corefile", fmt.Sprintf(
		"antipode.test:%d {\nbind %s\nhosts /dev/null {\n%sttl 3\nno_reverse\n}\n}\n", at.Port(), at.Addr(), hosts.String()))))
}

func startBIND(b *testing.B) measured {
	b.Helper()
	at := freeAddr(b)
	zone := "$TTL 3\n@ IN SOA ns.east hostmaster 1 3600 600 604800 60\n@ IN NS ns.east\nns.east IN A 198.18.1.6\n"
	for r := 1; r <= 3; r++ {
		zone += fmt.Sprintf("api IN A 198.18.%d.1\ncdn IN A 198.18.%d.7\n", r, r)
	}
	file := written(b, "zone", zone)
	dir := filepath.Dir(file)
	conf := written(b, "named.conf", fmt.Sprintf(`options {
	directory %q; pid-file none; session-keyfile none; dump-file "dump"; managed-keys-directory %q;
	listen-on port %d { %s; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; notify no; minimal-responses yes; allow-query { any; };
};
controls {};
zone "antipode.test" { type primary; file %q; };
`, dir, dir, at.Port(), at.Addr(), file))
	return run(b, at, exec.Command("named", "-g", "-c", conf)) //nolint:noctx // as asChild
}

func written(b *testing.B, name, text string) string {
	b.Helper()
	file := filepath.Join(b.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return file
}
