// Command geodns is the name server of a region: it sends each client to the nearest regions that are healthy and admitted.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"antipode.example/regions/geodns/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := server.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "geodns:", err)
		os.Exit(1)
	}
}
