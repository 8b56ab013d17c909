package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

func newDNS(s *settings) *cobra.Command {
	var from []string
	cmd := &cobra.Command{
		Use: "dns [NAME]", Short: "Show what each name server answers now, and for whom",
		Long: `dns asks every region's name server for NAME (api.` + topology.Zone + ` when it is left out), for clients in all places of the world or those that --from names.
A place is asked from itself, as by a resolver there; a subnet is asked by EDNS client subnet, from beside the name server. Regions stand in the order of the answer: clients try the first one first.`,
		Example: `  regionctl dns
  regionctl dns cdn.` + topology.Zone + ` --from mumbai --from 198.18.200.9/32`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"api." + topology.Zone, "cdn." + topology.Zone}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			report, err := s.client().Names(cmd.Context(), lab.NamesRequest{Name: strings.Join(args, ""), From: from})
			if err != nil {
				return s.advise(err)
			}
			return s.show(cmd.OutOrStdout(), report, func(out io.Writer) { writeNames(out, report) })
		},
	}
	cmd.Flags().StringArrayVar(&from, "from", nil, "a place of the world, an address or a subnet; may be repeated (all places)")
	return cmd
}

func writeNames(out io.Writer, report lab.NamesReport) {
	fmt.Fprintln(out, report.Name)
	servers := []string{"  FOR"}
	index := map[string]int{}
	var rows [][]string
	at := map[string]int{}
	for _, a := range report.Answers {
		if _, ok := index[a.Server]; !ok {
			index[a.Server] = len(servers)
			servers = append(servers, "BY ns."+a.Server)
		}
		row, ok := at[a.From]
		if !ok {
			row = len(rows)
			at[a.From] = row
			rows = append(rows, []string{"  " + a.From})
		}
		rows[row] = append(rows[row], nameCell(a))
	}
	table(out, append([][]string{servers}, rows...))
}

// nameCell is one answer in a few words.
func nameCell(a lab.NameAnswer) string {
	switch {
	case a.Error != "":
		return "silent"
	case a.Rcode != lab.NoError:
		return a.Rcode
	case len(a.Regions) > 0:
		return strings.Join(a.Regions, ", ")
	}
	var all []string
	for _, addr := range a.Addresses {
		all = append(all, addr.String())
	}
	return strings.Join(all, ", ")
}
