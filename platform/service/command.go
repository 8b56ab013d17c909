package service

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/platform/cache"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/global"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/replicas"
	"antipode.example/platform/store"
	"antipode.example/platform/telemetry"
)

// Program is the command line of a service.
type Program struct {
	// Service is the service's name; the program is called so with a d at the end.
	Service string
	// Short says in a line what the service is.
	Short string
	// Define reads a configuration file (see Load), and defines the service by it.
	Define func(file string) (Config, Definition, error)
}

// program is what the program of a service is called.
func program(service string) string { return service + "d" }

// Main runs a command line until it is done or ctx ends. Logs go to stderr, results to stdout.
func (g Program) Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c := g.command(stderr)
	c.SetArgs(args)
	c.SetOut(stdout)
	c.SetErr(stderr)
	return c.ExecuteContext(ctx)
}

func (g Program) command(stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           program(g.Service),
		Short:         g.Short,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	var file string
	root.PersistentFlags().StringVar(&file, "config", "", "configuration file (YAML)")
	open := func() (*Process, error) {
		if file == "" {
			return nil, errors.New("no configuration: say --config FILE")
		}
		cfg, definition, err := g.Define(file)
		if err != nil {
			return nil, err
		}
		log, err := telemetry.NewLogger(stderr, cfg.Log)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		cache.LogTo(log)
		return New(cfg, definition, log)
	}
	root.AddCommand(serveCommand(open), migrateCommand(open), syncCommand(open), digestCommand(open))
	return root
}

func serveCommand(open func() (*Process, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the roles of the configuration until SIGTERM or SIGINT",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := open()
			if err != nil {
				return err
			}
			return p.Run(cmd.Context())
		},
	}
}

func migrateCommand(open func() (*Process, error)) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Make and migrate the databases of all shards",
		Long: "Make and migrate the databases of all shards. The first time, the slots are dealt out evenly over the shards, in the order of the configuration.\n" +
			"Run it again whenever you like: it changes nothing when there is nothing to do. Every shard's primary must answer.\n\n" +
			"Unless all shards agree on the incarnation that the region was given last, the region has forgotten something: it takes the next one, which\n" +
			"needs a majority of regions, and fetches what the others have before it serves.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := open()
			if err != nil {
				return err
			}
			replica, err := p.migrate(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d shards are up to date, and home to replica %s\n", len(p.cfg.Shards), replica)
			return err
		},
	}
}

// quorumWait is how long migrate waits for a majority of regions when it needs one: all of them may be starting at the same time.
const quorumWait = 30 * time.Second

func (p *Process) migrate(ctx context.Context) (causal.Replica, error) {
	g, err := global.Open(p.cfg.GlobalEtcd)
	if err != nil {
		return 0, err
	}
	defer g.Close() //nolint:errcheck // nothing is under way
	numbers := replicas.New(g, p.cfg.Service)
	over := time.NewTimer(quorumWait)
	defer over.Stop()
	for {
		replica, err := store.Migrate(ctx, p.cfg.shards(), p.cfg.RegionNumber, numbers, p.log)
		if f := (*fault.Error)(nil); err == nil || !errors.As(err, &f) || f.Kind != fault.NoQuorum {
			return replica, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-over.C:
			return 0, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// with runs f while the connections to the engines are open, and nothing else.
func (p *Process) with(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var result error
	parts := append([]lifecycle.Component{p.telemeter()}, p.stores()...)
	parts = append(parts, lifecycle.Component{Name: "command", Run: func(own context.Context) error {
		result = f(own)
		cancel() // the command is done: everything stops, this part first
		<-own.Done()
		return nil
	}})
	return errors.Join(lifecycle.Run(ctx, p.log, parts...), result)
}

func syncCommand(open func() (*Process, error)) *cobra.Command {
	var peer string
	c := &cobra.Command{
		Use:   "sync",
		Short: "Compare this region with others and fetch what is missing here",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := open()
			if err != nil {
				return err
			}
			peers, err := p.peersNamed(peer)
			if err != nil {
				return err
			}
			return p.with(cmd.Context(), func(ctx context.Context) error { return p.reconcile(ctx, peers, cmd.OutOrStdout()) })
		},
	}
	c.Flags().StringVar(&peer, "peer", "", "only this region")
	return c
}

func (p *Process) peersNamed(name string) ([]string, error) {
	var all []string
	for _, peer := range p.cfg.Peers {
		all = append(all, peer.Region)
		if peer.Region == name {
			return []string{name}, nil
		}
	}
	if name != "" {
		return nil, fmt.Errorf("there is no peer %q; there are %q", name, all)
	}
	return all, nil
}

func (p *Process) reconcile(ctx context.Context, peers []string, out io.Writer) error {
	var errs []error
	for _, peer := range peers {
		r, err := p.replicator.Reconcile(ctx, peer)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", peer, err))
			continue
		}
		_, err = fmt.Fprintf(out, "%s: %d slots compared, %d differed, %d users fetched\n", peer, r.Slots, r.Differing, r.Fetched)
		errs = append(errs, err)
		if len(r.Diverged) > 0 {
			errs = append(errs, fmt.Errorf("%s: users with equal vectors and different states, which is a bug: %v", peer, r.Diverged))
		}
	}
	return errors.Join(errs...)
}

func digestCommand(open func() (*Process, error)) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "digest",
		Short: "Print the digests of this region's slots",
		Long: "Print the digests of this region's slots that hold users. Two regions with equal digests hold the same: `vectors` differs when something\n" +
			"is missing somewhere, `states` differs with equal vectors only when copies have diverged.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := open()
			if err != nil {
				return err
			}
			return p.with(cmd.Context(), func(ctx context.Context) error { return p.digest(ctx, cmd.OutOrStdout(), asJSON) })
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return c
}

func (p *Process) digest(ctx context.Context, out io.Writer, asJSON bool) error {
	slots, err := p.store.SlotDigests(ctx, 0, id.Slots)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	lines := json.NewEncoder(w)
	if !asJSON {
		if _, err := fmt.Fprintln(w, "SLOT\tUSERS\tVECTORS\tSTATES"); err != nil {
			return err
		}
	}
	for _, s := range slots {
		vectors, states := hex.EncodeToString(s.GetVectors()), hex.EncodeToString(s.GetStates())
		if asJSON {
			err = lines.Encode(map[string]any{"slot": s.GetSlot(), "users": s.GetUsers(), "vectors": vectors, "states": states})
		} else {
			_, err = fmt.Fprintf(w, "%d\t%d\t%.16s\t%.16s\n", s.GetSlot(), s.GetUsers(), vectors, states)
		}
		if err != nil {
			return err
		}
	}
	return w.Flush()
}
