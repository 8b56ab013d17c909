package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/control"
)

func newDigest(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "digest",
		Short: "Compare what the regions hold, slot by slot",
		Long: `digest asks every region, for each service, for two hashes of each slot: over who has seen which writes, and over the content. It exits with
status 1 when regions differ, or when one doesn't answer. Behind means that something has not arrived yet;
diverged that regions have seen the same writes and differ all the same, which is a bug.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := s.client().Digest(cmd.Context(), s.service)
			if err != nil {
				return s.advise(err)
			}
			if err := s.show(cmd.OutOrStdout(), report, func(out io.Writer) { writeDigest(out, report) }); err != nil {
				return err
			}
			if !report.Equal {
				return exitCode(1)
			}
			return nil
		},
	}
	s.serviceFlag(cmd)
	return cmd
}

func writeDigest(out io.Writer, report lab.DigestReport) {
	rows := [][]string{{"SERVICE", "REGION", "USERS", "VECTORS", "STATES"}}
	for _, s := range report.Services {
		for _, r := range s.Regions {
			if r.Error != "" {
				first, _, _ := strings.Cut(r.Error, "\n")
				rows = append(rows, []string{s.Service, r.Region, "?", "doesn't answer: " + first})
				continue
			}
			rows = append(rows, []string{s.Service, r.Region, strconv.FormatUint(r.Users, 10), r.Vectors[:16], r.States[:16]})
		}
	}
	table(out, rows)
	for _, s := range report.Services {
		switch {
		case s.Equal:
			fmt.Fprintf(out, "%s is equal: all regions hold the same\n", s.Service)
		case len(s.Diverged) > 0:
			fmt.Fprintf(out, "%s has DIVERGED in %d slots: %s; in these, copies with the same writes differ\n", s.Service, len(s.Diverged), slotList(s.Diverged))
		case len(s.Behind) > 0:
			fmt.Fprintf(out, "%s is different: in %d slots some region lacks writes: %s\n", s.Service, len(s.Behind), slotList(s.Behind))
		}
	}
}

func slotList(slots []uint32) string {
	const most = 10
	words := make([]string, 0, most+1)
	for i, s := range slots {
		if i == most {
			words = append(words, "…")
			break
		}
		words = append(words, strconv.FormatUint(uint64(s), 10))
	}
	return strings.Join(words, ", ")
}

func newConflicts(s *settings) *cobra.Command {
	conflicts := &cobra.Command{
		Use:   "conflicts",
		Short: "List writes that lost against concurrent ones, and reverse them",
	}
	list := &cobra.Command{
		Use: "list", Short: "List the conflicts of all regions, each once", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := s.client().Conflicts(cmd.Context(), s.service)
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), report, func(out io.Writer) { writeConflicts(out, report) })
		},
	}
	show := &cobra.Command{
		Use: "show NAME", Short: "Show one conflict with all that is known of it", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeConflicts,
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := s.client().Conflicts(cmd.Context(), s.service)
			if err != nil {
				return s.advise(err)
			}
			c, err := report.Find(args[0])
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), c, func(out io.Writer) {
				table(out, [][]string{
					{"name", c.Name},
					{"service", c.Service},
					{"user", c.UserID},
					{"field", c.Field},
					{"lost", c.Lost},
					{"won", c.Won},
					{"listed in", strings.Join(c.Regions, ", ")},
					{"entry", string(c.Entry)},
				})
			})
		},
	}
	var region string
	restore := &cobra.Command{
		Use: "restore NAME", Short: "Write the losing value again, as a new write", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeConflicts,
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := s.client().Restore(cmd.Context(), control.RestoreRequest{Service: s.service, Name: args[0], Region: region})
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), done, func(out io.Writer) {
				fmt.Fprintf(out, "%s of user %s is %s again, written in %s\n", done.Field, done.UserID, done.Lost, done.In)
			})
		},
	}
	restore.Flags().StringVar(&region, "region", "", "region that writes; by default the first that has listed the conflict")
	mustComplete(restore, "region", s.completeRegions(1))
	conflicts.AddCommand(list, show, restore)
	s.serviceFlag(conflicts)
	return conflicts
}

func (s *settings) completeConflicts(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	report, err := s.client().Conflicts(cmd.Context(), s.service)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, c := range report.Conflicts {
		names = append(names, c.Name+"\t"+c.Field+" ("+c.Service+")")
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func writeConflicts(out io.Writer, report lab.ConflictReport) {
	if len(report.Conflicts) == 0 {
		fmt.Fprintln(out, "no conflicts")
	} else {
		rows := [][]string{{"NAME", "SERVICE", "USER", "FIELD", "LOST", "WON"}}
		for _, c := range report.Conflicts {
			rows = append(rows, []string{c.Name[:min(16, len(c.Name))], c.Service, c.UserID, c.Field, c.Lost, c.Won})
		}
		table(out, rows)
	}
	if len(report.Silent) > 0 {
		fmt.Fprintf(out, "no answer from %s: what only these know is missing\n", report.Silent)
	}
}

func newSync(s *settings) *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "sync [REGION]",
		Short: "Compare regions now, and fetch what is missing",
		Long: `sync makes a region (all, if none is named) compare itself with the others (one, with --from) and fetch what it lacks, of all services (one, with
--service). Regions do
the same by themselves when they need to.`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: s.completeRegions(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.SyncRequest{Service: s.service, From: from}
			if len(args) > 0 {
				q.Region = args[0]
			}
			done, err := s.client().Sync(cmd.Context(), q)
			if err != nil {
				return s.advise(err)
			}
			if err := s.show(cmd.OutOrStdout(), done, func(out io.Writer) { writeSync(out, done) }); err != nil {
				return err
			}
			for _, r := range done {
				if r.Error != "" || len(r.Diverged) > 0 {
					return exitCode(1)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "region to fetch from; by default all others")
	mustComplete(cmd, "from", s.completeRegions(1))
	s.serviceFlag(cmd)
	return cmd
}

func writeSync(out io.Writer, done []lab.Reconciled) {
	rows := [][]string{{"SERVICE", "REGION", "FROM", "SLOTS", "DIFFERED", "FETCHED", "DIVERGED"}}
	for _, r := range done {
		if r.Error != "" {
			first, _, _ := strings.Cut(r.Error, "\n")
			rows = append(rows, []string{r.Service, r.Region, r.From, "failed: " + first})
			continue
		}
		rows = append(rows, []string{
			r.Service, r.Region, r.From, strconv.FormatUint(uint64(r.Slots), 10), strconv.FormatUint(uint64(r.SlotsDiffering), 10),
			strconv.FormatUint(r.UsersFetched, 10), strings.Join(r.Diverged, " "),
		})
	}
	table(out, rows)
}
