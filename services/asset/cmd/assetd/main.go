// Command assetd is the asset service: its roles (serve) and what an operator does with its data (migrate, sync, digest).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"antipode.example/services/asset/app"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := app.Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "assetd:", err)
		os.Exit(1)
	}
}
