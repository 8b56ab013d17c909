package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/control"
)

const readyWait = time.Minute

func newActions(s *settings) []*cobra.Command {
	return []*cobra.Command{
		s.action(lab.Kill, "Kill components and keep them down until start", "killed",
			`kill ends every process of a component with SIGKILL; it stays down until start. The unit of a database is the node:
its PostgreSQL is killed first, then its Patroni.`),
		s.action(lab.Crash, "Kill components; the supervisor starts them again", "crashed",
			`crash ends every process of a component with SIGKILL, as kill does; the supervisor starts it again, as after any
unexpected end.`),
		s.action(lab.Pause, "Stop components with SIGSTOP", "paused",
			`pause stops every process of a component with SIGSTOP: it keeps its memory, connections and locks, and answers nothing.`),
		s.action(lab.Resume, "Let paused components go on", "resumed", ""),
		s.action(lab.Begin, "Start components that were killed", "started", ""),
	}
}

func (s *settings) action(what lab.Action, short, done, long string) *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:               string(what) + " REGION/COMPONENT...",
		Short:             short,
		Long:              long,
		Example:           "  regionctl " + string(what) + " us-east/pg-s1-1\n  regionctl " + string(what) + " us-east kafka",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: s.completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.ActRequest{Action: what, Components: fullNames(args), Wait: wait}
			if err := s.client().Act(cmd.Context(), q, nil); err != nil {
				return s.advise(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", strings.Join(q.Components, ", "), done)
			return nil
		},
	}
	if what != lab.Kill && what != lab.Pause {
		usual := time.Duration(0)
		if what == lab.Begin {
			usual = readyWait
		}
		cmd.Flags().DurationVar(&wait, "wait", usual, "how long to wait until they are ready; 0 doesn't wait")
	}
	return cmd
}

// fullNames also accepts a region and a component as two words.
func fullNames(args []string) []string {
	if len(args) == 2 && !strings.Contains(args[0], "/") && !strings.Contains(args[1], "/") {
		return []string{args[0] + "/" + args[1]}
	}
	return args
}

func newPower(s *settings) *cobra.Command {
	power := &cobra.Command{
		Use:   "power",
		Short: "Switch the power of a region",
		Long: `power off makes a region go silent first, with what was under way lost, then kills everything in it; its disks
stay. power on brings its links back and starts it, and waits until it is ready.`,
	}
	toggle := func(word, short string, on bool) *cobra.Command {
		return &cobra.Command{
			Use: word + " REGION", Short: short,
			Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeRegions(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				q := control.PowerRequest{Region: args[0], On: on}
				if err := s.client().Power(cmd.Context(), q, s.progress(cmd.OutOrStdout())); err != nil {
					return s.advise(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: power %s\n", args[0], word)
				return nil
			},
		}
	}
	power.AddCommand(toggle("off", "End a region as a loss of power does", false), toggle("on", "Start it again", true))
	return power
}
