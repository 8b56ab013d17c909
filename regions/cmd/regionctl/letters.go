package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/control"
)

func newDLQ(s *settings) *cobra.Command {
	dlq := &cobra.Command{
		Use:   "dlq",
		Short: "List dead letters, try them again, give them up",
		Long: `A dead letter is a message of another region's log that a region could not apply. Its partition goes on without it; the user whom it is
about is incomplete there until the write has come in another way, which regions see to by themselves. A letter is open until then.`,
	}
	dlq.AddCommand(s.dlqList(), s.dlqReplay(), s.dlqDrop())
	s.serviceFlag(dlq)
	return dlq
}

func (s *settings) dlqList() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the open dead letters of all regions", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := s.client().Letters(cmd.Context(), s.service, all)
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), report, func(out io.Writer) { writeLetters(out, report) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that are settled, as long as they are kept (30 days)")
	return cmd
}

func writeLetters(out io.Writer, report lab.LetterReport) {
	if len(report.Letters) == 0 {
		fmt.Fprintln(out, "no dead letters")
	} else {
		rows := [][]string{{"NAME", "SERVICE", "REGION", "FROM", "AT", "USER", "WRITE", "AGE", "STATE", "ERROR"}}
		for _, l := range report.Letters {
			rows = append(rows, []string{
				l.Name[:min(16, len(l.Name))], l.Service, l.Region, l.Origin, fmt.Sprintf("%s/%d@%d", l.Topic, l.Partition, l.Offset), orUnknown(l.UserID), orUnknown(l.Write),
				age(time.Since(l.CameAt)), l.State, shorten(l.Error),
			})
		}
		table(out, rows)
	}
	if len(report.Silent) > 0 {
		fmt.Fprintf(out, "no answer from %s: their letters are missing\n", report.Silent)
	}
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// shorten makes a text of any origin fit a table.
func shorten(text string) string {
	const most = 100
	quoted := strconv.Quote(text)
	if quoted = quoted[1 : len(quoted)-1]; len(quoted) > most {
		return strings.ToValidUTF8(quoted[:most], "") + "…"
	}
	return quoted
}

func (s *settings) dlqReplay() *cobra.Command {
	var region string
	cmd := &cobra.Command{
		Use: "replay NAME", Short: "Try a dead letter again", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeLetters,
		Long: `replay tries the letter again by the rule of all events, and then fetches from the other regions what it should have brought: its user, or, when it
can't be read, all that is missing. It exits with status 1 when the letter is still open.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := s.client().ReplayLetter(cmd.Context(), control.LetterRequest{Service: s.service, Name: args[0], Region: region})
			if err != nil {
				return s.advise(err)
			}
			if err := s.show(cmd.OutOrStdout(), done, func(out io.Writer) { writeReplayed(out, done) }); err != nil {
				return err
			}
			for _, d := range done {
				if d.State == lab.LetterOpen {
					return exitCode(1)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "only in this region; by default in all that have it open")
	mustComplete(cmd, "region", s.completeRegions(1))
	return cmd
}

func writeReplayed(out io.Writer, done []lab.LetterDone) {
	for _, d := range done {
		if d.State == lab.LetterOpen {
			fmt.Fprintf(out, "%s: %s is still open: %s\n", d.Region, d.Name, d.Reason)
			continue
		}
		what := "its write " + d.Write + " is here"
		if d.Write == "" {
			what = "everything that " + d.Origin + " had is here"
		}
		fmt.Fprintf(out, "%s: %s is settled: %s\n", d.Region, d.Name, what)
	}
}

func (s *settings) dlqDrop() *cobra.Command {
	var region string
	cmd := &cobra.Command{
		Use: "drop NAME", Short: "Give a dead letter up", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeLetters,
		Long: `drop gives up what the letter should have brought, and says what that was. The user stays as the other regions have it: what one of them holds
still comes.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			done, err := s.client().DropLetter(cmd.Context(), control.LetterRequest{Service: s.service, Name: args[0], Region: region})
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), done, func(out io.Writer) {
				for _, d := range done {
					fmt.Fprintf(out, "%s: %s is dropped: write %s of user %s from %s is given up; the user stays as the other regions have it\n",
						d.Region, d.Name, orUnknown(d.Write), orUnknown(d.UserID), d.Origin)
				}
			})
		},
	}
	cmd.Flags().StringVar(&region, "region", "", "only in this region; by default in all that have it open")
	mustComplete(cmd, "region", s.completeRegions(1))
	return cmd
}

func (s *settings) completeLetters(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	report, err := s.client().Letters(cmd.Context(), s.service, false)
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, l := range report.Letters {
		names = append(names, l.Name+"\tof "+l.Service+" in "+l.Region)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
