// Package servicetest runs regions for tests of services: Region is what the rules and the API of one need of engines, TwoRegions are whole processes on engines of their own.
package servicetest

import (
	"log/slog"
	"testing"

	"antipode.example/platform/cache/redistest"
	"antipode.example/platform/pg/pgtest"
	"antipode.example/platform/shard"
	"antipode.example/platform/store"
	"antipode.example/platform/store/storetest"
)

// Region is two PostgreSQL shards with the service's migrated databases, and Redis.
type Region struct {
	Number uint16
	// Databases are the servers of the shards s1 and s2.
	Databases []*pgtest.Server
	Shards    shard.Config
	Redis     *redistest.Server
}

// NewRegion starts engines that end with the test. The service's database has its name.
func NewRegion(tb testing.TB, service string, number uint16) *Region {
	tb.Helper()
	r := &Region{Number: number, Redis: redistest.New(tb)}
	r.Shards = shard.Config{Service: service, Database: service, User: "postgres", MaxConns: 8}
	for _, name := range []string{"s1", "s2"} {
		s := pgtest.NewServer(tb, nil)
		r.Databases = append(r.Databases, s)
		r.Shards.Shards = append(r.Shards.Shards, shard.Cluster{Name: name, Nodes: []string{s.Addr()}})
	}
	r.add(tb, service)
	return r
}

// add makes and migrates the databases of a service.
func (r *Region) add(tb testing.TB, service string) {
	tb.Helper()
	c := r.Shards
	c.Service, c.Database = service, service
	if _, err := store.Migrate(tb.Context(), c, r.Number, &storetest.Numbers{}, slog.New(slog.DiscardHandler)); err != nil {
		tb.Fatalf("migrate the databases of %s in region %d: %v", service, r.Number, err)
	}
}
