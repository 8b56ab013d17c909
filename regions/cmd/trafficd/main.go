// Command trafficd is the traffic controller of a region: it observes all regions, votes, and keeps its own in the state that follows.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"antipode.example/regions/control"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := control.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "trafficd:", err)
		os.Exit(1)
	}
}
