// Package app puts the asset service together: its rules, its API, and what it has of its own in a process of package service.
package app

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/api/openapi"
	"antipode.example/platform/auth"
	"antipode.example/platform/gateway"
	"antipode.example/platform/id"
	"antipode.example/platform/lifecycle"
	"antipode.example/platform/record"
	"antipode.example/platform/service"
	"antipode.example/platform/store"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/content"
	"antipode.example/services/asset/internal/media"
	"antipode.example/services/asset/internal/recount"
	assetrpc "antipode.example/services/asset/internal/rpc"
	"antipode.example/services/asset/internal/signedurl"
	"antipode.example/services/asset/internal/users"
	"antipode.example/services/asset/internal/work"
)

// app is what a process of the asset service has of its own.
type app struct {
	cfg      Config
	registry *record.Registry
	signed   signedurl.Keys
	users    *users.Users
	blobs    blobs
	assets   *asset.Service
	server   *assetrpc.Server
	// Without the role api, these are nil; without the role worker, that.
	content   *content.Handlers
	recounter *recount.Recounter
	worker    *work.Worker
	purging   purging // nothing where no edges are
}

// Main runs the command line of assetd until it is done or ctx ends. Logs go to stderr, results to stdout.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := service.Program{Service: asset.ServiceName, Short: "The asset service: what users upload, and who bought it, in every region", Define: define}
	return p.Main(ctx, args, stdout, stderr)
}

// define reads a configuration file, and the keys that only this service has.
func define(file string) (service.Config, service.Definition, error) {
	a := &app{cfg: defaults()}
	if err := service.Load(file, asset.ServiceName, &a.cfg); err != nil {
		return a.cfg.Config, service.Definition{}, err
	}
	keys, err := service.ReadKeys(a.cfg.KeyFile("signed-url"))
	if err != nil {
		return a.cfg.Config, service.Definition{}, err
	}
	if a.signed, err = signedurl.NewKeys(keys...); err != nil {
		return a.cfg.Config, service.Definition{}, err
	}
	d, err := a.definition()
	return a.cfg.Config, d, err
}

func (a *app) definition() (service.Definition, error) {
	var err error
	if a.registry, err = asset.NewRegistry(); err != nil {
		return service.Definition{}, fmt.Errorf("register record types: %w", err)
	}
	return service.Definition{
		Registry:    a.registry,
		MayRestore:  a.mayRestore,
		Projections: map[string]store.Projection{asset.RecordType: asset.Projection},
		Follows:     []string{auth.ServiceUser, auth.ServiceSession},
		Forget:      func(ctx context.Context, user id.ID) error { return a.assets.Forget(ctx, user) },
		Exists:      func(ctx context.Context, user id.ID) error { return a.users.Exists(ctx, user) },
		GRPC:        []string{assetv1.AssetService_ServiceDesc.ServiceName},
		Local:       []string{assetv1.ContentService_ServiceDesc.ServiceName},
		Open:        a.open,
		Close:       a.close,
		Applied:     func(ctx context.Context, users map[id.ID]store.Written) { a.blobs.stock.Applied(ctx, users) },
		Replicating: []lifecycle.Component{
			{Name: "fetch blobs", Run: func(ctx context.Context) error { return a.blobs.stock.Fetch(ctx) }},
			{Name: "sweep blobs", Run: func(ctx context.Context) error { return a.blobs.stock.Sweep(ctx) }},
		},
		Work: []lifecycle.Component{
			{Name: "worker", Run: func(ctx context.Context) error { return a.worker.Run(ctx) }},
			{Name: "purger", Run: func(ctx context.Context) error { return a.purging.run(ctx) }},
		},
		Background: []lifecycle.Component{
			{Name: "expiration of uploads", Run: func(ctx context.Context) error { return a.content.Expiring().Run(ctx) }},
			{Name: "recount", Run: func(ctx context.Context) error { return a.recounter.Run(ctx) }},
		},
		Plain:         func(p *gateway.Plain) { a.content.Register(p) },
		Register:      func(r grpc.ServiceRegistrar) { assetv1.RegisterAssetServiceServer(r, a.server) },
		RegisterLocal: func(r grpc.ServiceRegistrar) { assetv1.RegisterContentServiceServer(r, a.server) },
		Gateway: func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
			return assetv1.RegisterAssetServiceHandlerClient(ctx, mux, assetv1.NewAssetServiceClient(conn))
		},
		OpenAPI: openapi.Document(),
	}, nil
}

// open makes the service's rules, and what this process needs for its roles.
func (a *app) open(ctx context.Context, p *service.Parts) error {
	conn, err := p.Service(auth.ServiceUser, users.RetrySafe)
	if err != nil {
		return err
	}
	a.users = users.New(conn)
	if err := a.blobs.open(ctx, &a.cfg, p); err != nil {
		return err
	}
	a.assets, err = asset.New(asset.Config{
		Copies: p.Copies, Quota: a.cfg.Quota.usage(), MaxUpload: a.cfg.MaxUploadBytes, Signed: a.signed, Elsewhere: a.blobs.elsewhere(), Idempotency: p.Keys.Idempotency,
		Clock: p.Clock, Random: rand.Reader, Log: p.Log, Meter: p.Meter,
	})
	if err != nil {
		return err
	}
	if a.has(service.RoleAPI) {
		if err := a.openAPI(ctx, p); err != nil {
			return err
		}
	}
	if a.has(service.RoleWorker) {
		if err := a.openWorker(p); err != nil {
			return err
		}
		return a.purging.open(ctx, &a.cfg, p)
	}
	return nil
}

// close releases what open opened.
func (a *app) close(ctx context.Context) error {
	a.purging.close()
	return a.blobs.close(ctx)
}

func (a *app) has(r service.Role) bool { return slices.Contains(a.cfg.Roles, r) }

// openAPI makes what clients reach.
func (a *app) openAPI(ctx context.Context, p *service.Parts) error {
	var err error
	if a.server, err = assetrpc.NewServer(a.assets, p.Clock, p.Keys.Cursor...); err != nil {
		return err
	}
	a.content, err = content.New(content.Config{Bucket: a.blobs.bucket, Puller: a.blobs.puller, Uploads: a.cfg.Uploads, Reserve: a.cfg.ReserveBytes, MaxUpload: a.cfg.MaxUploadBytes, Log: p.Log})
	if err != nil {
		return err
	}
	a.recounter, err = recount.New(ctx, recount.Config{
		Regions: slices.Collect(maps.Values(a.regions())), Acts: p.Acts, Synced: p.Synced, Users: p.Store.Users, Recount: a.assets.Recount, Leases: p.Leases, Log: p.Log, Meter: p.Meter,
	})
	return err
}

// regions are the numbers of all regions.
func (a *app) regions() map[string]uint16 {
	all := map[string]uint16{a.cfg.Region: a.cfg.RegionNumber}
	for _, peer := range a.cfg.Peers {
		all[peer.Region] = peer.RegionNumber
	}
	return all
}

// besideImages is what a worker takes beside the images that it looks into, in bytes.
const besideImages = 128 << 20

// openWorker makes what looks into images.
func (a *app) openWorker(p *service.Parts) error {
	maker, err := media.NewMaker(a.cfg.ImageMemoryBytes)
	if err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" { // or else garbage may take as much again as the images
		debug.SetMemoryLimit(a.cfg.ImageMemoryBytes + besideImages)
	}
	a.worker, err = work.New(work.Config{
		Region: a.cfg.Region, Regions: a.regions(), Assets: a.assets, Store: p.Store, Blobs: work.RegionBlobs{Bucket: a.blobs.bucket, Puller: a.blobs.puller}, Maker: maker,
		Events: p.Events, Topic: p.Topic, Partitions: a.cfg.Kafka.Partitions, Acts: p.Acts, Synced: p.Synced, Leases: p.Leases, Deaths: filepath.Join(a.cfg.Spool, "attempts"), Clock: p.Clock, Log: p.Log, Meter: p.Meter,
	})
	return err
}
