package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/control"
	"antipode.example/regions/topology"
)

// settings are the flags that all commands share.
type settings struct {
	lab, topology, data, output string
	service                     string // empty for all
	enginesOnly                 bool
}

func newRoot() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:   "regionctl",
		Short: "Run and operate the local world: regions on real engines, joined by an emulated WAN",
		Long: `regionctl starts the regions of a topology on this machine, each in a network namespace of its own with
its own databases, log, cache, stores and load balancer, joined by a WAN in user space; it shows what they do,
and injects faults.

It needs root. A lab has a name, so that several can run side by side; components are called region/name, as
in us-east/kafka or eu-west/pg-s1-1 (regionctl status lists them).`,
		Example: `  regionctl up
  regionctl status
  regionctl link cut us-east eu-west
  regionctl power off ap-south
  regionctl down`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if s.lab == "" { // or the main lab would be meant where a variable was forgotten
				return errors.New("--lab names no lab: leave it out for the main one, or say 1 to 32 letters a-z and digits")
			}
			if s.output != "text" && s.output != "json" {
				return fmt.Errorf("there is no output format %q: text or json", s.output)
			}
			return nil
		},
	}
	f := root.PersistentFlags()
	f.StringVar(&s.lab, "lab", lab.DefaultName, "name of the lab: 1 to 32 letters a-z and digits")
	f.StringVar(&s.topology, "topology", topology.Default, "what up builds: "+strings.Join(topology.Names(), ", ")+", or the path of a .yaml file")
	f.StringVar(&s.data, "data", lab.DefaultDataDir(), "where labs keep their data")
	f.StringVarP(&s.output, "output", "o", "text", "format of what is read: text or json")
	mustComplete(root, "output", fixed("text", "json"))
	mustComplete(root, "topology", fixed(topology.Names()...))
	root.AddGroup(&cobra.Group{ID: "life", Title: "Start and stop:"}, &cobra.Group{ID: "see", Title: "See:"}, &cobra.Group{ID: "traffic", Title: "Traffic:"},
		&cobra.Group{ID: "fault", Title: "Faults:"}, &cobra.Group{ID: "data", Title: "Data:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			if c.HasSubCommands() { // a word that is none of them is a mistake, and not a wish for help
				c.Args, c.RunE = cobra.NoArgs, func(c *cobra.Command, _ []string) error { return c.Help() }
			}
		}
		root.AddCommand(commands...)
	}
	add("life", newUp(s), newDown(s), newClean(s))
	add("see", newStatus(s), newLogs(s), newExec(s))
	add("traffic", newTraffic(s)...)
	add("fault", append(newActions(s), newPower(s), newLink(s), newFault(s))...)
	add("data", newAdmin(s), newDigest(s), newConflicts(s), newDLQ(s), newSync(s))
	root.AddCommand(newSupervise(s), newRunEtcd())
	return root
}

func (s *settings) client() *control.Client { return control.Dial(s.lab) }

// options are those of the lab to start.
func (s *settings) options() (lab.Options, error) {
	t, err := topology.Load(s.topology)
	if err != nil {
		return lab.Options{}, fmt.Errorf("topology %s: %w", s.topology, err)
	}
	return lab.Options{Name: s.lab, Topology: t, DataDir: s.data, WithoutServices: s.enginesOnly}.Complete()
}

// advise adds to an error what to do about it.
func (s *settings) advise(err error) error {
	if err == nil {
		return nil
	}
	if isNotRunning(err) {
		return fmt.Errorf("%w: start it with %s", err, s.command("up"))
	}
	return err
}

// command is a command line for the same lab, to paste.
func (s *settings) command(args string) string {
	words := []string{"regionctl"}
	if s.lab != lab.DefaultName {
		words = append(words, "--lab", s.lab)
	}
	if s.data != lab.DefaultDataDir() {
		words = append(words, "--data", s.data)
	}
	return strings.Join(append(words, args), " ")
}

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

func fixed(words ...string) completion {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

func mustComplete(c *cobra.Command, flag string, f completion) {
	if err := c.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the flag doesn't exist: a mistake in this program
	}
}

// completeRegions offers names of regions, for the first most arguments.
func (s *settings) completeRegions(most int, more ...string) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := slices.Clone(more)
		for _, component := range s.componentNames(cmd) {
			region, _, _ := strings.Cut(component, "/")
			if !slices.Contains(names, region) && !slices.Contains(args, region) {
				names = append(names, region)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeComponents offers full names of components that are not named yet.
func (s *settings) completeComponents(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	names := slices.DeleteFunc(s.componentNames(cmd), func(n string) bool { return slices.Contains(args, n) })
	return names, cobra.ShellCompDirectiveNoFileComp
}

// serviceFlag restricts a command, and those below it, to one service.
func (s *settings) serviceFlag(c *cobra.Command) {
	c.PersistentFlags().StringVar(&s.service, "service", "", "only this service; by default all")
	mustComplete(c, "service", s.completeServices)
}

// completeServices offers the services of the running lab, or of the topology that up would build.
func (s *settings) completeServices(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	if state, err := s.client().State(cmd.Context()); err == nil {
		return state.Services, cobra.ShellCompDirectiveNoFileComp
	}
	opts, err := s.options()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return opts.Topology.ServiceNames(), cobra.ShellCompDirectiveNoFileComp
}

// componentNames are those of the running lab, or of the topology that up would build.
func (s *settings) componentNames(cmd *cobra.Command) []string {
	if state, err := s.client().State(cmd.Context()); err == nil {
		return state.Components
	}
	opts, err := s.options()
	if err != nil {
		return nil
	}
	names, err := lab.ComponentNames(opts)
	if err != nil {
		return nil
	}
	return names
}
