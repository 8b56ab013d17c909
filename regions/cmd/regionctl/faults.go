package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/control"
)

func newFault(s *settings) *cobra.Command {
	fault := &cobra.Command{
		Use:   "fault",
		Short: "Inject faults, list them, heal them",
		Long: `A fault has a name in words, such as "kill us-east/kafka" or "loss us-east eu-west 5%". One that was injected stays active until it is
healed or the lab goes down; status names those that are. fault list shows which there are.`,
	}
	fault.AddCommand(s.faultList(), s.faultInject(), s.faultHeal())
	return fault
}

// faults is what list shows.
type faults struct {
	Active    []lab.ActiveFault `json:"active"`
	Catalogue []lab.FaultKind   `json:"catalogue"`
}

func (s *settings) faultList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show what can be injected, and what is", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		Long: `list looks at the world for each active fault, and says so when it is no longer as the fault made it. Without a lab it shows the catalogue
alone.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := faults{Active: []lab.ActiveFault{}, Catalogue: lab.FaultCatalogue()}
			active, err := s.client().Faults(cmd.Context())
			if err != nil && !isNotRunning(err) {
				return err
			}
			all.Active = append(all.Active, active...)
			return s.show(cmd.OutOrStdout(), all, func(out io.Writer) { writeFaults(out, all) })
		},
	}
}

func writeFaults(out io.Writer, all faults) {
	writeCatalogue(out, all.Catalogue)
	if len(all.Active) == 0 {
		fmt.Fprint(out, "\nno fault is active\n")
		return
	}
	fmt.Fprint(out, "\nactive:\n")
	rows := [][]string{}
	for _, f := range all.Active {
		missing := ""
		if f.Missing != "" {
			missing = "no longer holds: " + f.Missing
		}
		rows = append(rows, []string{"  " + f.Name, "for " + age(time.Since(f.Since)), missing})
	}
	table(out, rows)
}

func writeCatalogue(out io.Writer, catalogue []lab.FaultKind) {
	rows := [][]string{}
	for _, k := range catalogue {
		rows = append(rows, []string{"  " + k.Usage(), k.Help})
	}
	table(out, rows)
}

func (s *settings) faultInject() *cobra.Command {
	var kinds strings.Builder
	writeCatalogue(&kinds, lab.FaultCatalogue())
	cmd := &cobra.Command{
		Use:   "inject FAULT WORD...",
		Short: "Make a fault happen, and look whether it has",
		Long: `inject returns once the fault has taken. What can't be changes nothing. Flags go before the words of the fault.

` + kinds.String(),
		Example: `  regionctl fault inject kill us-east/kafka
  regionctl fault inject loss us-east eu-west 5%
  regionctl fault inject clock us-east -5m`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: s.completeFault(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.checkFault(cmd, args); err != nil {
				return err
			}
			done, err := s.client().InjectFault(cmd.Context(), control.FaultRequest{Words: args}, s.faultProgress(cmd))
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), done, func(out io.Writer) {
				fmt.Fprintf(out, "injected: %s (%.1f s)\n", strings.Join(done.Faults, "; "), done.Seconds)
			})
		},
	}
	// A clock's offset may begin with a hyphen.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (s *settings) faultHeal() *cobra.Command {
	const all = "all"
	cmd := &cobra.Command{
		Use:   "heal FAULT WORD... | all",
		Short: "Undo a fault, or all of them",
		Long:  `heal returns once what the fault touched is ready again. A fault that is not there is no error. Flags go before the words of the fault.`,
		Example: `  regionctl fault heal kill us-east/kafka
  regionctl fault heal all`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: s.completeFault(all + "\tevery active fault"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.FaultRequest{Words: args}
			if len(args) == 1 && args[0] == all {
				q = control.FaultRequest{All: true}
			} else if err := s.checkFault(cmd, args); err != nil {
				return err
			}
			done, err := s.client().HealFault(cmd.Context(), q, s.faultProgress(cmd))
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), done, func(out io.Writer) {
				if len(done.Faults) == 0 {
					fmt.Fprintln(out, "no such fault is active")
					return
				}
				fmt.Fprintf(out, "healed: %s (%.1f s)\n", strings.Join(done.Faults, "; "), done.Seconds)
			})
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// faultProgress shows what goes on; JSON is one document, without it.
func (s *settings) faultProgress(cmd *cobra.Command) func(lab.Event) {
	if s.output == "json" {
		return nil
	}
	return s.progress(cmd.OutOrStdout())
}

// checkFault refuses what can't be understood before anybody is asked.
func (s *settings) checkFault(cmd *cobra.Command, words []string) error {
	for _, w := range words {
		if name := strings.TrimLeft(w, "-"); name != w && (cmd.Flag(name) != nil || cmd.Flags().ShorthandLookup(name[:min(1, len(name))]) != nil) {
			return fmt.Errorf("%s: flags go before the words of the fault", w)
		}
	}
	_, err := lab.CheckFault(s.componentNames(cmd), words...)
	return err
}

// completeFault offers the next word of a fault, and more as the first.
func (s *settings) completeFault(more ...string) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		words := lab.CompleteFault(s.componentNames(cmd), args...)
		if len(args) == 0 {
			words = append(words, more...)
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}
