package network_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

// The ends of benchmarks are processes of their own, so that the CPU time of this process is that of the WAN.
const (
	envPeer = "ANTIPODE_BENCH_PEER" // echo, sink, source
	envAddr = "ANTIPODE_BENCH_ADDR"
	envSize = "ANTIPODE_BENCH_SIZE" // MiB that a source sends
)

func TestMain(m *testing.M) {
	if role := os.Getenv(envPeer); role != "" {
		if err := peer(role, os.Getenv(envAddr)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// peer runs one end until its standard input ends; it writes a line when it is ready.
func peer(role, addr string) error {
	if role == "source" {
		return source(addr)
	}
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if role == "echo" {
					_, _ = io.Copy(c, c)
					return
				}
				_, _ = io.Copy(io.Discard, c)
				_, _ = c.Write([]byte{1})
			}()
		}
	}()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// source sends, and ends when the sink has got all.
func source(addr string) error {
	mib, err := strconv.Atoi(os.Getenv(envSize))
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	chunk := make([]byte, 1<<20)
	for range mib {
		if _, err := c.Write(chunk); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// serve starts an end that listens.
func (l *lab) serve(region, role, addr string) {
	l.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envPeer+"="+role, envAddr+"="+addr)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	l.must(err)
	stdout, err := cmd.StdoutPipe()
	l.must(err)
	l.must(l.Namespace(region).Start(cmd))
	l.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			l.Error(err)
		}
	})
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		l.Fatal(err)
	}
}

// cpu is the CPU time of this process so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// How much longer a round trip of one byte is than was asked.
func BenchmarkRoundTrip(b *testing.B) {
	for _, delay := range []time.Duration{0, ms, 10 * ms, 40 * ms} {
		b.Run(fmt.Sprintf("rtt=%v", 2*delay), func(b *testing.B) {
			l := up(b, "two")
			l.must(l.WAN().Set(wan.Params{Delay: delay}, wan.Both(east, west)...))
			l.serve(west, "echo", westA+":8080")
			c := l.dial(east, eastA, westA+":8080")
			l.must(c.SetDeadline(time.Time{}))
			l.roundTrips(c, 1)
			b.ResetTimer()
			took := l.roundTrips(c, b.N)
			b.StopTimer()
			over := func(d time.Duration) float64 { return float64((d - 2*delay).Microseconds()) }
			b.ReportMetric(over(took[len(took)/2]), "over-p50-µs")
			b.ReportMetric(over(took[len(took)*95/100]), "over-p95-µs")
			late := l.WAN().Snapshot().Lateness
			b.ReportMetric(float64((late.Sum / time.Duration(late.Packets)).Microseconds()), "late-mean-µs")
		})
	}
}

// One TCP stream: throughput, and what it costs the WAN (with the work that the kernel does in its name).
func BenchmarkTCP(b *testing.B) {
	for _, bench := range []struct {
		name   string
		params wan.Params
	}{
		{"rtt=0s", wan.Params{}},
		{"rtt=80ms", wan.Params{Delay: 40 * ms}},
		{"rtt=80ms,rate=100Mbit", wan.Params{Delay: 40 * ms, Rate: 100e6, Queue: 4 << 20}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l := up(b, "two")
			l.must(l.WAN().Set(bench.params, wan.Both(east, west)...))
			l.serve(west, "sink", westA+":8080")
			b.SetBytes(1 << 20)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), envPeer+"=source", envAddr+"="+westA+":8080", fmt.Sprintf("%s=%d", envSize, b.N))
			cmd.Stderr = os.Stderr
			b.ResetTimer()
			before := cpu(b)
			l.must(l.Namespace(east).Start(cmd))
			l.must(cmd.Wait())
			used := cpu(b) - before
			b.StopTimer()
			mbit := float64(b.N) * (8 << 20) / 1e6
			b.ReportMetric(mbit/b.Elapsed().Seconds(), "Mbit/s")
			b.ReportMetric(used.Seconds()/b.Elapsed().Seconds()*100, "core-%")
			b.ReportMetric(used.Seconds()*1000/mbit, "cpu-ms/Mbit")
		})
	}
}

// A WAN of three regions over which nothing goes; an operation is a second.
func BenchmarkIdle(b *testing.B) {
	up(b, topology.Default)
	b.ResetTimer()
	before := cpu(b)
	<-time.After(time.Duration(b.N) * time.Second)
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "cpu-µs/s")
}
