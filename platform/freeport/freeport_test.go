package freeport_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"

	"antipode.example/platform/freeport"
)

const askedFor = "ANTIPODE_TEST_PORTS"

// TestMain prints ports and holds them until its input ends, when it is run by TestProcessesGetDifferentPorts.
func TestMain(m *testing.M) {
	if os.Getenv(askedFor) == "" {
		os.Exit(m.Run())
	}
	for range 120 {
		port, err := freeport.Take()
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(port)
	}
	fmt.Println("done")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

func TestProcessesGetDifferentPorts(t *testing.T) {
	by := map[string]int{}
	for i := range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), askedFor+"=1")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = in.Close(), cmd.Wait() }()
		lines := bufio.NewScanner(out)
		for lines.Scan() && lines.Text() != "done" {
			if other, twice := by[lines.Text()]; twice {
				t.Errorf("%q of process %d was also given to process %d", lines.Text(), i, other)
			}
			by[lines.Text()] = i
		}
	}
	if len(by) != 4*120 {
		t.Errorf("%d ports, want %d", len(by), 4*120)
	}
}

func TestPassesOverWhatIsInUse(t *testing.T) {
	port, err := freeport.Take()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.77.0.1:%d", port+1))
	if err != nil {
		t.Skipf("someone has the next port: %v", err)
	}
	defer l.Close()
	if next, err := freeport.Take(); err != nil || next == port+1 {
		t.Errorf("given %d after %d, which another program listens on (%v)", next, port, err)
	}
}
