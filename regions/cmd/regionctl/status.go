package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"antipode.example/platform/region"
	"antipode.example/regions/lab"
)

func newStatus(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "status [REGION]",
		Short: "Show regions, components, memory, CPU, endpoints and replication lag",
		Long: `status shows every component with its state, restarts, memory (proportional share) and CPU (over about 10 s), where
it listens, and how far each region is behind the others, by heartbeats that take the way of every event.

States: ready, starting, unready (runs, but doesn't answer), backoff (ended, will be started again), killed (stays
down until start), paused, stopped. With -o json everything is in one document.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: s.completeRegions(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			state, err := s.client().State(cmd.Context())
			if err != nil {
				return s.advise(err)
			}
			status := lab.Status{Lab: state.Lab, State: state.Phase, PID: state.PID, Topology: state.Topology, Dir: state.Dir, Services: state.Services}
			if state.Phase == "up" {
				if status, err = s.client().Status(cmd.Context()); err != nil {
					return s.advise(err)
				}
			}
			if len(args) > 0 {
				if status.Regions, err = only(status.Regions, args[0]); err != nil {
					return err
				}
			}
			return s.show(cmd.OutOrStdout(), status, func(out io.Writer) { writeStatus(out, status) })
		},
	}
}

func only(regions []lab.RegionStatus, name string) ([]lab.RegionStatus, error) {
	var names []string
	for _, r := range regions {
		if r.Name == name {
			return []lab.RegionStatus{r}, nil
		}
		names = append(names, r.Name)
	}
	return nil, fmt.Errorf("there is no region %q: there are %s", name, strings.Join(names, ", "))
}

func writeStatus(out io.Writer, s lab.Status) {
	fmt.Fprintf(out, "lab %s is %s: topology %s, supervisor %d, %s, %s of a core; data in %s\n",
		s.Lab, s.State, s.Topology, s.PID, mib(s.MemoryBytes), percent(s.CPU), s.Dir)
	if len(s.Faults) > 0 {
		names := make([]string, len(s.Faults))
		for i, f := range s.Faults {
			names[i] = f.Name
		}
		fmt.Fprintf(out, "faults are active: %s\n", strings.Join(names, "; "))
	}
	writeNeeds(out, s)
	for _, r := range s.Regions {
		fmt.Fprintf(out, "\n%s is %s%s: http://%s from the host, %s inside; %s, %s of a core\n",
			r.Name, r.State, inTraffic(r.Traffic), r.Door, r.Front, mib(r.MemoryBytes), percent(r.CPU))
		rows := [][]string{{"  COMPONENT", "STATE", "", "SINCE", "RESTARTS", "PID", "MEMORY", "CPU", "INSIDE"}}
		for _, c := range r.Components {
			rows = append(rows, componentRow(c))
		}
		table(out, rows)
		writeReplication(out, r.Replication, len(s.Services) > 1)
	}
}

// inTraffic is where a region stands for its clients, to go on a sentence with.
func inTraffic(t *lab.Traffic) string {
	if t == nil {
		return ""
	}
	return ", " + t.State + " and " + inDNS(t.DNS, region.State(t.State))
}

// writeNeeds says what needs a person, before everything else. Where there are several services, it says of which.
func writeNeeds(out io.Writer, s lab.Status) {
	rows := [][]string{}
	for _, r := range s.Regions {
		if r.Replication == nil {
			continue
		}
		for _, n := range r.Replication.NeedsPerson {
			where := r.Name
			if len(s.Services) > 1 {
				where = n.Service + " in " + r.Name
			}
			rows = append(rows, []string{"  " + where, n.Text, n.Do})
		}
	}
	if len(rows) > 0 {
		fmt.Fprintln(out, "needs a person:")
		table(out, rows)
	}
}

func componentRow(c lab.ComponentStatus) []string {
	detail := c.Detail
	if c.LastError != "" {
		detail = c.LastError
		const most = 60
		if len(detail) > most {
			detail = "…" + strings.ToValidUTF8(detail[len(detail)-most:], "") // the cause stands at the end
		}
	}
	pid := ""
	if c.PID > 0 {
		pid = strconv.Itoa(c.PID)
	}
	ends := make([]string, len(c.Endpoints))
	for i, e := range c.Endpoints {
		ends[i] = e.Speaks + " " + e.Inside
	}
	return []string{
		"  " + c.Name, string(c.State), detail, age(time.Since(c.Since)), strconv.Itoa(c.Restarts), pid, mib(c.Memory), percent(c.CPU),
		strings.Join(ends, ", "),
	}
}

// writeReplication names the services where there are several.
func writeReplication(out io.Writer, r *lab.Replication, several bool) {
	if r == nil {
		return
	}
	if r.Error != "" {
		fmt.Fprintf(out, "  replication: unknown: %s\n", r.Error)
		if len(r.Shards) == 0 {
			return
		}
	}
	if r.CatchingUp {
		fmt.Fprintln(out, "  catching up: the region has forgotten something, and serves nobody until it has fetched what the others have")
	}
	fmt.Fprintf(out, "  replication: %d events applied, %.1f/s\n", r.EventsApplied, r.EventsPerSecond)
	rows := make([][]string, 0, len(r.Shards))
	for _, s := range r.Shards {
		parked := ""
		if s.Parked > 0 {
			parked = fmt.Sprintf("%d parked", s.Parked)
		}
		of := ""
		if several {
			of = s.Service + " "
		}
		rows = append(rows, []string{
			"    " + of + "from " + s.Region, s.Shard, fmt.Sprintf("lag %d ms", s.LagMs), fmt.Sprintf("heard %.1f s ago", float64(s.SilentMs)/1000), parked,
		})
	}
	table(out, rows)
}

// age is a duration for people, in its two greatest units at most.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
}
