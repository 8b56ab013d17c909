package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/platform/region"
	"antipode.example/regions/control"
	lab "antipode.example/regions/lab/control"
)

// newTraffic are the commands that decide where clients go.
func newTraffic(s *settings) []*cobra.Command {
	return []*cobra.Command{newDNS(s), s.evaluateCommand(), s.planCommand(), s.orderCommand(control.Drain), s.orderCommand(control.Activate), s.orderCommand(control.Fence), s.auditCommand()}
}

// viaFlag names the controller that is asked.
func (s *settings) viaFlag(c *cobra.Command, via *string) {
	c.Flags().StringVar(via, "via", "", "ask the controller of this region (the first that answers and hears a majority)")
	mustComplete(c, "via", s.completeRegions(1))
}

// controllers are those to ask, in this order; of a region that is spoken of, its own comes last.
func (s *settings) controllers(ctx context.Context, via, about string) ([]*control.Client, error) {
	daemon := s.client()
	state, err := daemon.State(ctx)
	if err != nil {
		return nil, s.advise(err)
	}
	var regions []string
	for _, component := range state.Components {
		if name, _, _ := strings.Cut(component, "/"); !slices.Contains(regions, name) {
			regions = append(regions, name)
		}
	}
	if via != "" {
		if !slices.Contains(regions, via) {
			return nil, fmt.Errorf("there is no region %q: there are %s", via, strings.Join(regions, ", "))
		}
		regions = []string{via}
	}
	slices.SortStableFunc(regions, func(a, b string) int { return cmp.Compare(btoi(a == about), btoi(b == about)) })
	all := make([]*control.Client, len(regions))
	for i, name := range regions {
		all[i] = control.NewClient(lab.TrafficAddress(name), daemon.DialContext)
	}
	return all, nil
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// askControllers asks one controller after the other until one gives an answer that another would give as well.
func askControllers[T any](ctx context.Context, all []*control.Client, ask func(*control.Client) (T, error)) (result T, err error) {
	for _, c := range all {
		if result, err = ask(c); err == nil || ctx.Err() != nil {
			return result, err
		}
		if a := (*control.AnswerError)(nil); errors.As(err, &a) && a.Status < 500 {
			return result, err
		}
	}
	return result, err
}

// tooOld is for how long a controller that has heard nothing from the global store is believed before another is asked.
const tooOld = 5 * time.Second

func (s *settings) evaluate(ctx context.Context, via string) (control.Evaluation, error) {
	all, err := s.controllers(ctx, via, "")
	if err != nil {
		return control.Evaluation{}, err
	}
	return newest(ctx, all)
}

// newest is the evaluation of the first controller that hears the global store, or else the newest of all.
func newest(ctx context.Context, all []*control.Client) (best control.Evaluation, err error) {
	found := false
	for _, c := range all {
		e, askErr := c.Evaluate(ctx)
		switch {
		case askErr != nil:
			err = askErr
		case !found || e.HeardMs < best.HeardMs:
			best, found = e, true
		}
		if found && best.HeardMs < tooOld.Milliseconds() {
			break
		}
	}
	if found {
		return best, nil
	}
	return best, err
}

func (s *settings) evaluateCommand() *cobra.Command {
	var via string
	cmd := &cobra.Command{
		Use: "evaluate", Short: "Show the regions' states, votes and gates, and what follows from them", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := s.evaluate(cmd.Context(), via)
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), e, func(out io.Writer) { writeEvaluation(out, e) })
		},
	}
	s.viaFlag(cmd, &via)
	return cmd
}

func writeEvaluation(out io.Writer, e control.Evaluation) {
	fmt.Fprintf(out, "as the controller of %s sees it, %s after its last news of the global store; %d of %d observers decide\n", e.From, (time.Duration(e.HeardMs) * time.Millisecond).Round(100*time.Millisecond), e.Majority, e.Observers)
	for _, r := range e.Regions {
		fmt.Fprintf(out, "\n%s  %s, weight %d, epoch %d, %s, %s\n", r.Record.Region, r.Record.State, r.Record.Weight, r.Record.Epoch, r.Verdict, inDNS(r.DNS, r.Record.State))
		if r.Record.Why != "" {
			fmt.Fprintf(out, "  by %s, %s ago: %s\n", r.Record.By, age(time.Since(r.Record.Since)), r.Record.Why)
		}
		var rows [][]string
		for _, v := range r.Votes {
			fresh := (time.Duration(v.AgeMs) * time.Millisecond).Round(100*time.Millisecond).String() + " old"
			if v.AgeMs < 0 {
				fresh = "never heard"
			} else if v.Stale {
				fresh += ", does not count"
			}
			rows = append(rows, []string{"  vote of " + v.Observer, v.Opinion, fresh, v.Why})
		}
		for _, g := range r.Gates {
			state := "closed"
			if g.Open {
				state = "open"
			}
			rows = append(rows, []string{"  gate " + g.Name, state, g.Measured, "must be " + g.Bound})
		}
		table(out, rows)
		switch {
		case r.Next != "":
			fmt.Fprintf(out, "  next: %s, for %s\n", r.Next, r.NextWhy)
		case r.Waits != "":
			fmt.Fprintf(out, "  waits for %s\n", r.Waits)
		}
	}
}

// inDNS says whether name servers answer a region.
func inDNS(dns bool, state region.State) string {
	switch {
	case !dns:
		return "not in DNS"
	case !state.Admitted():
		return "in DNS because no region is usable"
	}
	return "in DNS"
}

func (s *settings) planCommand() *cobra.Command {
	var via string
	kinds := []string{string(control.Drain), string(control.Activate), string(control.Fence)}
	cmd := &cobra.Command{
		Use: "plan drain|activate|fence REGION", Short: "Show what an order would do, without giving it; exits with 1 if it would be refused", Args: wants(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return kinds, cobra.ShellCompDirectiveNoFileComp
			}
			return s.completeRegions(2)(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(kinds, args[0]) {
				return fmt.Errorf("there is no order %q: there are %s", args[0], strings.Join(kinds, ", "))
			}
			all, err := s.controllers(cmd.Context(), via, args[1])
			if err != nil {
				return err
			}
			p, err := askControllers(cmd.Context(), all, func(c *control.Client) (control.Plan, error) {
				return c.Plan(cmd.Context(), control.Kind(args[0]), args[1])
			})
			if err != nil {
				return err
			}
			if err := s.show(cmd.OutOrStdout(), p, func(out io.Writer) { writePlan(out, p) }); err != nil {
				return err
			}
			if len(p.Refusals) > 0 {
				return exitCode(1)
			}
			return nil
		},
	}
	s.viaFlag(cmd, &via)
	return cmd
}

func writePlan(out io.Writer, p control.Plan) {
	for _, refusal := range p.Refusals {
		fmt.Fprintf(out, "refused: %s\n", refusal)
	}
	if len(p.Refusals) > 0 && p.Overridable {
		fmt.Fprintln(out, "--override with --why carries it out all the same")
	}
	rows := [][]string{{"REGION", "NOW", "THEN", "IN DNS NOW", "THEN"}}
	for _, r := range p.Regions {
		rows = append(rows, []string{r.Region, string(r.Before), string(r.After), yes(r.DNSBefore), yes(r.DNSAfter)})
	}
	table(out, rows)
	if len(p.Refusals) > 0 && len(p.Steps) > 0 {
		fmt.Fprintln(out, "with --override:")
	}
	for i, step := range p.Steps {
		fmt.Fprintf(out, "%d. %s\n", i+1, step)
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// orders says of each order what it is, and in which state it has been carried out.
var orders = map[control.Kind]struct { //nolint:gochecknoglobals // a constant that Go can't express
	short, long string
	done        region.State
	limit       time.Duration
}{
	control.Drain: {
		"Take a region out of DNS and empty it, without a failed request",
		`drain takes REGION out of DNS, asks clients that are still connected to leave, forwards what they send nevertheless to other regions, and returns when nothing is under way there any more. It is refused when no other
region would be left, or the others cannot carry what clients ask: --override with --why does it all the same. Ctrl-C ends the waiting, not the drain; regionctl activate takes it back.`,
		region.Drained, 2 * time.Minute,
	},
	control.Activate: {
		"Bring a drained or fenced region back, through the gates",
		`activate lets REGION take clients again: it catches up first, and gets into DNS once most observers find it well, its canary is green, its lag is under the bound and its data are what the others have. Then its weight
rises step by step. Ctrl-C ends the waiting only.`,
		region.Active, 5 * time.Minute,
	},
	control.Fence: {
		"Forbid a region to serve until it is activated",
		`fence makes REGION stop serving as soon as it hears of it, also when it comes back only later: for a region that must not be reached as it is. What it had acknowledged still gets to the others. A region that is cut off
goes on until it hears. It is refused when no other region would be left: --override with --why does it all the same.`,
		region.Fenced, time.Minute,
	},
}

func (s *settings) orderCommand(kind control.Kind) *cobra.Command {
	var via string
	var noWait bool
	o := control.Order{}
	about := orders[kind]
	cmd := &cobra.Command{
		Use: string(kind) + " REGION", Short: about.short, Long: about.long, Args: wants(1), ValidArgsFunction: s.completeRegions(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Region = args[0]
			if o.Override && o.Why == "" {
				return errors.New("--override needs a reason: --why REASON")
			}
			all, err := s.controllers(cmd.Context(), via, o.Region)
			if err != nil {
				return err
			}
			done, err := askControllers(cmd.Context(), all, func(c *control.Client) (control.Done, error) { return c.Order(cmd.Context(), kind, o) })
			if err != nil && s.underWay(cmd.Context(), all, o.Region, kind) {
				return s.follow(cmd, all, o.Region, about.done, about.limit) // ordered before
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", kind, o.Region, withFlags(err))
			}
			for _, refusal := range done.Overridden {
				fmt.Fprintf(cmd.ErrOrStderr(), "overridden: %s\n", refusal)
			}
			if noWait {
				return s.show(cmd.OutOrStdout(), done, func(out io.Writer) { fmt.Fprintf(out, "%s is %s\n", o.Region, done.Record.State) })
			}
			return s.follow(cmd, all, o.Region, about.done, about.limit)
		},
	}
	cmd.Flags().StringVar(&o.By, "by", operator(), "who orders it, for the audit")
	cmd.Flags().StringVar(&o.Why, "why", "", "the reason, for the audit")
	if kind != control.Activate {
		cmd.Flags().BoolVar(&o.Override, "override", false, "carry it out although it is refused; needs --why")
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return once it is ordered")
	s.viaFlag(cmd, &via)
	return cmd
}

// operator is who gives orders, as far as the machine knows.
func operator() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "somebody"
}

// underWay reports whether a region is in a state that the order leads to already.
func (s *settings) underWay(ctx context.Context, all []*control.Client, name string, kind control.Kind) bool {
	states := map[control.Kind][]region.State{
		control.Drain: {region.Draining, region.Drained}, control.Activate: {region.CatchingUp, region.Warming, region.Active}, control.Fence: {region.Fenced},
	}[kind]
	e, err := newest(ctx, all)
	return err == nil && slices.ContainsFunc(e.Regions, func(r control.RegionEvaluation) bool {
		return r.Record.Region == name && slices.Contains(states, r.Record.State)
	})
}

// wants is cobra.ExactArgs with an error that shows the usage.
func wants(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("want: %s", cmd.UseLine())
		}
		return nil
	}
}

// withFlags says of a refusal which flags an override is.
func withFlags(err error) error {
	if a := (*control.AnswerError)(nil); errors.As(err, &a) && a.Status == http.StatusConflict && strings.Contains(a.Message, "override") {
		return fmt.Errorf("%w (--override --why REASON)", err)
	}
	return err
}

// followEvery is how often is looked what has become of an order.
const followEvery = 300 * time.Millisecond

// follow tells what becomes of a region until it is in the wanted state.
func (s *settings) follow(cmd *cobra.Command, all []*control.Client, name string, want region.State, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	began, last, lastText := time.Now(), control.RegionEvaluation{}, ""
	for {
		e, err := newest(ctx, all)
		if i := slices.IndexFunc(e.Regions, func(r control.RegionEvaluation) bool { return r.Record.Region == name }); err == nil && i >= 0 {
			last = e.Regions[i]
			if text := progress(last); text != lastText {
				fmt.Fprintf(cmd.ErrOrStderr(), "%6.1f s  %s\n", time.Since(began).Seconds(), text)
				lastText = text
			}
			if last.Record.State == want {
				return s.show(cmd.OutOrStdout(), last, func(out io.Writer) {
					fmt.Fprintf(out, "%s is %s after %.1f s\n", name, want, time.Since(began).Seconds())
				})
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is %s, and not yet %s: %s shows what it waits for: %w", name, last.Record.State, want, s.command("evaluate"), context.Cause(ctx))
		case <-time.After(followEvery):
		}
	}
}

// progress is where a region stands, in a line that changes only when something has.
func progress(r control.RegionEvaluation) string {
	text := string(r.Record.State)
	if r.Record.State == region.Warming {
		text += ", weight " + strconv.Itoa(r.Record.Weight)
	}
	if r.Record.State == region.CatchingUp {
		var closed []string
		for _, g := range r.Gates {
			if !g.Open {
				closed = append(closed, g.Name)
			}
		}
		if len(closed) > 0 {
			text += ", behind the gates " + strings.Join(closed, ", ")
		}
	}
	return text
}

func (s *settings) auditCommand() *cobra.Command {
	var via string
	var limit int
	cmd := &cobra.Command{
		Use: "audit", Short: "List the last changes of regions' states: what, by whom, why", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return fmt.Errorf("--limit %d: want 1 or more", limit)
			}
			all, err := s.controllers(cmd.Context(), via, "")
			if err != nil {
				return err
			}
			lines, err := askControllers(cmd.Context(), all, func(c *control.Client) ([]control.Audited, error) { return c.Audit(cmd.Context(), limit) })
			if err != nil {
				return err
			}
			return s.show(cmd.OutOrStdout(), lines, func(out io.Writer) { writeAudit(out, lines) })
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "at most so many, the newest first")
	s.viaFlag(cmd, &via)
	return cmd
}

func writeAudit(out io.Writer, lines []control.Audited) {
	if len(lines) == 0 {
		fmt.Fprintln(out, "no region's state was ever changed")
		return
	}
	rows := [][]string{{"AT", "REGION", "FROM", "TO", "WEIGHT", "EPOCH", "BY", "WHY"}}
	for _, l := range lines {
		r := l.Record
		rows = append(rows, []string{
			r.Since.Local().Format(time.DateTime), r.Region, string(l.From), string(r.State), strconv.Itoa(r.Weight), strconv.FormatUint(r.Epoch, 10), r.By, shorten(r.Why),
		})
	}
	table(out, rows)
}
