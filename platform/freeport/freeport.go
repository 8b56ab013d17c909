// Package freeport finds TCP ports for programs that are told which port to listen on, and may stop and listen again.
//
// A port that the kernel chooses (":0") is free only as long as it is held: once closed, it is the next one of any connection or listener.
// The ports given here are below those that the kernel chooses (32768 and up, by default), and no two processes that use this package get
// the same one: they come in blocks, and a process holds a block's name in the abstract Unix socket namespace, which the kernel releases
// when the process ends, however it ends, and which has the scope of the ports, the network namespace.
package freeport

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

const (
	first  = 20000
	size   = 50
	blocks = 200 // up to 29999
)

var taken struct {
	sync.Mutex
	next, end int
	held      []net.Listener // keeps the blocks until the process ends
}

// Take returns a port on which nothing listens on any of the host's IPv4 addresses, and that this process alone is given, once. It fails
// when all 10,000 ports are taken.
func Take() (int, error) {
	taken.Lock()
	defer taken.Unlock()
	for {
		if taken.next == taken.end {
			if err := takeBlock(); err != nil {
				return 0, err
			}
		}
		port := taken.next
		taken.next++
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port)) //nolint:noctx // nothing to wait for
		if err != nil {
			continue // of a program that does not use this package
		}
		return port, l.Close()
	}
}

// TakeAddr returns "127.0.0.1:port" with a port of Take.
func TakeAddr() (string, error) {
	port, err := Take()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

func takeBlock() error {
	for i := range blocks {
		l, err := net.Listen("unix", fmt.Sprintf("@antipode-ports-%d", i)) //nolint:noctx // nothing to wait for
		if err != nil {
			continue // another process's, or an earlier one of ours
		}
		taken.held = append(taken.held, l)
		taken.next = first + i*size
		taken.end = taken.next + size
		return nil
	}
	return errors.New("all ports from 20000 to 29999 are given to processes that still run")
}
