// Package daemon is the command line of a program that serves until it is told to end: NAME serve --config FILE.
//
// Not here: signals, which only a main listens to, and the programs of services (platform/service), which have more commands.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"antipode.example/platform/telemetry"
)

// Program is one. C is its configuration.
type Program[C any] struct {
	Name string
	// Short says in a line what the program is, and Serve what serving is.
	Short, Serve string
	// Load reads a configuration file.
	Load func(file string) (C, error)
	// Log is the part of the configuration about logs.
	Log func(C) telemetry.LogConfig
	// Run serves until ctx ends.
	Run func(ctx context.Context, cfg C, log *slog.Logger) error
}

// Main runs a command line until it is done or ctx ends. Logs go to stderr.
func (p Program[C]) Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := &cobra.Command{Use: p.Name, Short: p.Short, SilenceUsage: true, SilenceErrors: true}
	var file string
	root.PersistentFlags().StringVar(&file, "config", "", "configuration file (YAML)")
	root.AddCommand(&cobra.Command{
		Use:   "serve",
		Short: p.Serve,
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return p.serve(ctx, file, stderr) },
	})
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

func (p Program[C]) serve(ctx context.Context, file string, stderr io.Writer) error {
	if file == "" {
		return errors.New("no configuration: say --config FILE")
	}
	cfg, err := p.Load(file)
	if err != nil {
		return err
	}
	log, err := telemetry.NewLogger(stderr, p.Log(cfg))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return p.Run(ctx, cfg, log)
}
