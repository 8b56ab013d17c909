// Command sessiond is the session service: its roles (serve) and what an operator does with its data (migrate, sync, digest).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"antipode.example/services/session/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sessiond:", err)
		os.Exit(1)
	}
}
