package main

import (
	"github.com/spf13/cobra"

	"antipode.example/regions/lab/etcdmember"
)

// newRunEtcd is what a lab runs for its stores; nobody calls it by hand.
func newRunEtcd() *cobra.Command {
	var c etcdmember.Config
	cmd := &cobra.Command{
		Use:    "run-etcd",
		Short:  "Run a member of an etcd cluster in the foreground",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return etcdmember.Run(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Name, "name", "", "name of the member")
	f.StringVar(&c.Data, "data", "", "directory of its data")
	f.StringVar(&c.ClientURL, "client-url", "", "where clients reach it")
	f.StringVar(&c.PeerURL, "peer-url", "", "where other members reach it")
	f.StringVar(&c.Cluster, "cluster", "", "all members: name=peer-url,...")
	f.StringVar(&c.Token, "token", "", "name of the cluster")
	f.StringArrayVar(&c.Rejoin, "rejoin", nil, "client URLs of other members of a cluster that exists: when the data are gone, they take the member in anew")
	f.DurationVar(&c.Heartbeat, "heartbeat", 0, "between signs of life of the leader")
	f.DurationVar(&c.Election, "election", 0, "silence after which a member stands for election")
	return cmd
}
