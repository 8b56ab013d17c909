package server

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"antipode.example/platform/telemetry"
)

// Main runs the command line of the program geodns until it is done or ctx ends. Logs go to stderr.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{Use: "geodns", Short: "The name server of a region", SilenceUsage: true, SilenceErrors: true}
	var file string
	root.PersistentFlags().StringVar(&file, "config", "", "configuration file (YAML)")
	root.AddCommand(&cobra.Command{
		Use:   "serve",
		Short: "Answer queries until SIGTERM or SIGINT",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return serve(ctx, file, stderr) },
	})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

func serve(ctx context.Context, file string, stderr io.Writer) error {
	if file == "" {
		return errors.New("no configuration: say --config FILE")
	}
	cfg, err := Load(file)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(stderr, cfg.Log)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	s, err := New(ctx, cfg, log)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
