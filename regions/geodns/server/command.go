package server

import (
	"context"
	"io"
	"log/slog"

	"antipode.example/platform/telemetry"
	"antipode.example/regions/daemon"
)

// Main runs the command line of the program geodns until it is done or ctx ends. Logs go to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return daemon.Program[Config]{
		Name: "geodns", Short: "The name server of a region", Serve: "Answer queries until SIGTERM or SIGINT",
		Load: Load, Log: func(cfg Config) telemetry.LogConfig { return cfg.Log },
		Run: func(ctx context.Context, cfg Config, log *slog.Logger) error {
			s, err := New(ctx, cfg, log)
			if err != nil {
				return err
			}
			return s.Run(ctx)
		},
	}.Main(ctx, args, stdout, stderr)
}
