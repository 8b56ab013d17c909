// Command regionctl runs and operates the local world: regions on real engines, joined by an emulated WAN.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	var quiet exitCode
	if errors.As(err, &quiet) {
		os.Exit(int(quiet))
	}
	fmt.Fprintln(os.Stderr, "regionctl:", err)
	os.Exit(1)
}

// exitCode ends the program with a status after everything has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }
