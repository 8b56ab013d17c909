package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab/control"
	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

func newLink(s *settings) *cobra.Command {
	link := &cobra.Command{
		Use:   "link",
		Short: "Show and change the links between regions",
		Long: `A link joins two places: regions, or places of clients. Each direction has a delay, jitter, loss and rate of its own, and
can be cut. A cut is silent, as a broken line is: nothing is reset.`,
	}
	link.AddCommand(s.linkShow(), s.linkSet())
	link.AddCommand(
		s.linkOp("cut", "Cut links, silently"), s.linkOp("heal", "Heal links that were cut"),
		s.linkOp("reset", "Heal links and give them the delays of the topology"))
	return link
}

func (s *settings) linkShow() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show every direction between regions", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			snapshot, err := s.client().Links(cmd.Context())
			if err != nil {
				return s.advise(err)
			}
			if !all {
				state, err := s.client().State(cmd.Context())
				if err != nil {
					return s.advise(err)
				}
				snapshot.Links = between(snapshot.Links, state.Components)
			}
			return s.show(cmd.OutOrStdout(), snapshot, func(out io.Writer) { writeLinks(out, snapshot) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those to the places of clients and to the doors")
	return cmd
}

// between keeps the links whose ends are regions.
func between(links []wan.LinkState, components []string) []wan.LinkState {
	regions := map[string]bool{}
	for _, c := range components {
		region, _, _ := strings.Cut(c, "/")
		regions[region] = true
	}
	kept := []wan.LinkState{}
	for _, l := range links {
		if regions[l.From] && regions[l.To] {
			kept = append(kept, l)
		}
	}
	return kept
}

func writeLinks(out io.Writer, snapshot wan.Snapshot) {
	rows := [][]string{{"FROM", "TO", "STATE", "DELAY", "JITTER", "LOSS", "RATE", "DELIVERED", "LOST", "CUT"}}
	for _, l := range snapshot.Links {
		state := "open"
		switch {
		case l.Isolated:
			state = "no power"
		case l.Cut:
			state = "cut"
		}
		c := l.Counters
		rows = append(rows, []string{
			l.From, l.To, state, l.Params.Delay.String(), l.Params.Jitter.String(), fmt.Sprintf("%g %%", 100*l.Params.Loss), l.Params.Rate.String(),
			strconv.FormatUint(c.Delivered, 10), strconv.FormatUint(c.DroppedLoss+c.DroppedQueue+c.DroppedWrite, 10),
			strconv.FormatUint(c.DroppedCut, 10),
		})
	}
	table(out, rows)
	if !snapshot.Running {
		fmt.Fprintln(out, "the network does not run")
	}
	for _, broken := range snapshot.Broken {
		fmt.Fprintf(out, "the device of %s is broken: nothing reaches it until the lab is started again\n", broken)
	}
}

func (s *settings) linkOp(op, short string) *cobra.Command {
	var oneWay bool
	cmd := &cobra.Command{
		Use:   op + " REGION [REGION]",
		Short: short,
		Long:  short + `. With two names: between the two. With one: between that region and every other region.`,
		Args:  cobra.RangeArgs(1, 2), ValidArgsFunction: s.completeRegions(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.changeLinks(cmd, control.LinkRequest{Op: op}, args, oneWay)
		},
	}
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "only the direction from the first to the second")
	return cmd
}

func (s *settings) linkSet() *cobra.Command {
	var oneWay bool
	var delay, jitter time.Duration
	var loss, rate string
	cmd := &cobra.Command{
		Use:   "set REGION [REGION]",
		Short: "Change delay, jitter, loss or rate of links",
		Example: `  regionctl link set us-east eu-west --delay 300ms
  regionctl link set us-east eu-west --one-way --loss 1%
  regionctl link set ap-south --rate 1Mbit`,
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: s.completeRegions(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := control.LinkRequest{Op: "set"}
			changed := cmd.Flags().Changed
			if changed("delay") {
				q.Delay = &delay
			}
			if changed("jitter") {
				q.Jitter = &jitter
			}
			if changed("loss") {
				share, err := topology.ParseShare(loss)
				if err != nil {
					return fmt.Errorf("--loss: %w", err)
				}
				q.Loss = &share
			}
			if changed("rate") {
				r, err := topology.ParseRate(rate)
				if err != nil {
					return fmt.Errorf("--rate: %w", err)
				}
				q.Rate = &r
			}
			if q.Delay == nil && q.Jitter == nil && q.Loss == nil && q.Rate == nil {
				return fmt.Errorf("nothing to set: give --delay, --jitter, --loss or --rate")
			}
			return s.changeLinks(cmd, q, args, oneWay)
		},
	}
	f := cmd.Flags()
	f.DurationVar(&delay, "delay", 0, "how long one direction takes (half of a round trip)")
	f.DurationVar(&jitter, "jitter", 0, "the most that is added to the delay")
	f.StringVar(&loss, "loss", "", "share of packets that are lost: 1% or 0.01")
	f.StringVar(&rate, "rate", "", "bits per second: 1Mbit, 500kbit, unlimited")
	f.BoolVar(&oneWay, "one-way", false, "only the direction from the first to the second")
	return cmd
}

// changeLinks carries out a change between the named regions, or between one and all others.
func (s *settings) changeLinks(cmd *cobra.Command, q control.LinkRequest, args []string, oneWay bool) error {
	if len(args) == 1 {
		if oneWay {
			return fmt.Errorf("--one-way needs two regions")
		}
		state, err := s.client().State(cmd.Context())
		if err != nil {
			return s.advise(err)
		}
		others := map[string]bool{}
		for _, c := range state.Components {
			region, _, _ := strings.Cut(c, "/")
			if region != args[0] && !others[region] {
				others[region] = true
				q.Pairs = append(q.Pairs, wan.Both(args[0], region)...)
			}
		}
	} else {
		q.Pairs = wan.Both(args[0], args[1])
		if oneWay {
			q.Pairs = []wan.Pair{{From: args[0], To: args[1]}}
		}
	}
	if err := s.client().ChangeLinks(cmd.Context(), q); err != nil {
		return s.advise(err)
	}
	names := make([]string, len(q.Pairs))
	for i, p := range q.Pairs {
		names[i] = p.String()
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", q.Op, strings.Join(names, ", "))
	return nil
}
