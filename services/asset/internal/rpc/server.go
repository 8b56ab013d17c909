// Package rpc is the asset service's API: it turns messages into calls of package asset and copies back into messages. What all APIs have in common is package resource's, the rules are package asset's.
package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/causal"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/hlc"
	"antipode.example/platform/id"
	"antipode.example/platform/resource"
	"antipode.example/platform/rpc"
	"antipode.example/services/asset"
)

// Page sizes of lists.
const (
	defaultPage = 50
	maxPage     = 500
)

// defaultLifetime is that of a signed URL.
const defaultLifetime = time.Hour

// Server implements assetv1.AssetServiceServer and assetv1.ContentServiceServer.
type Server struct {
	assetv1.UnimplementedAssetServiceServer
	assetv1.UnimplementedContentServiceServer
	assets  *asset.Service
	cursors resource.Cursors
}

// NewServer makes a Server. Page tokens are signed with the first key and accepted with any.
func NewServer(assets *asset.Service, clock hlc.Clock, cursorKeys ...causal.Key) (*Server, error) {
	cursors, err := resource.NewCursors(clock, cursorKeys...)
	if err != nil {
		return nil, err
	}
	return &Server{assets: assets, cursors: cursors}, nil
}

// CreateAsset is described in the .proto file, as are all methods.
func (s *Server) CreateAsset(ctx context.Context, r *assetv1.CreateAssetRequest) (*assetv1.Asset, error) {
	call, v := rpc.FromContext(ctx), viewer(ctx)
	result, err := s.assets.Create(ctx, asset.Creation{
		Owner: v.User, Record: recordOf(r.GetAsset()), Key: call.IdempotencyKey, Remote: resource.Remote(call),
	}, seenBy(call)(v.User))
	return wrote(call, result, v, err)
}

// GetAsset answers one asset.
func (s *Server) GetAsset(ctx context.Context, r *assetv1.GetAssetRequest) (*assetv1.Asset, error) {
	call, v := rpc.FromContext(ctx), viewer(ctx)
	ref, err := named(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	sight, err := s.assets.Get(ctx, ref, v, seenBy(call))
	if err != nil {
		return nil, err
	}
	tell(call, sight)
	if !sight.Found {
		return nil, notFound(ref)
	}
	return message(sight.Copy, v)
}

// ListAssets answers one page of an owner's assets.
func (s *Server) ListAssets(ctx context.Context, r *assetv1.ListAssetsRequest) (*assetv1.ListAssetsResponse, error) {
	call, v := rpc.FromContext(ctx), viewer(ctx)
	owner, err := userOf(ctx, r.GetOwnerId(), ownerField)
	if err != nil {
		return nil, err
	}
	from, err := s.cursors.Open(r.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, err := s.assets.List(ctx, owner, v, from.CreateTime, from.ID, pageSize(r.GetPageSize()), seenBy(call)(owner))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, asset.ServiceName, asset.Copy{Ref: copies.Own(owner), Version: page.Version, Stale: page.Stale})
	out := &assetv1.ListAssetsResponse{}
	for _, c := range page.Assets {
		m, err := message(c, v)
		if err != nil {
			return nil, err
		}
		out.Assets = append(out.Assets, m)
	}
	if page.More {
		last := page.Assets[len(page.Assets)-1]
		out.NextPageToken = s.cursors.Seal(resource.Position{CreateTime: last.Record.GetCreateTime().AsTime(), ID: last.ID})
	}
	return out, nil
}

// UpdateAsset changes one asset.
func (s *Server) UpdateAsset(ctx context.Context, r *assetv1.UpdateAssetRequest) (*assetv1.Asset, error) {
	call := rpc.FromContext(ctx)
	owner, err := userOf(ctx, r.GetAsset().GetOwnerId(), "asset.owner_id")
	if err != nil {
		return nil, err
	}
	one, err := resource.ParseID(r.GetAsset().GetId(), "asset.id", anAsset)
	if err != nil {
		return nil, err
	}
	c, err := change(r.GetUpdateMask(), r.GetAsset())
	if err != nil {
		return nil, err
	}
	c.Ref, c.Remote = copies.Ref{User: owner, ID: one}, resource.Remote(call)
	result, err := s.assets.Update(ctx, c, seenBy(call)(owner))
	return wrote(call, result, viewer(ctx), err)
}

// DeleteAsset deletes one asset.
func (s *Server) DeleteAsset(ctx context.Context, r *assetv1.DeleteAssetRequest) (*emptypb.Empty, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	result, err := s.assets.Delete(ctx, asset.Deletion{Ref: ref, Etag: r.GetEtag(), Remote: resource.Remote(call)}, seenBy(call)(ref.User))
	if err != nil {
		return nil, err
	}
	resource.Written(call, asset.ServiceName, result)
	return &emptypb.Empty{}, nil
}

// CreateSignedUrl makes an address for those who have no token. Its name is the generated interface's.
func (s *Server) CreateSignedUrl(ctx context.Context, r *assetv1.CreateSignedUrlRequest) (*assetv1.SignedUrl, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	lifetime := defaultLifetime
	if r.GetLifetime() != nil {
		lifetime = r.GetLifetime().AsDuration()
	}
	if lifetime%time.Second != 0 {
		return nil, resource.Invalid().With("lifetime", "must be whole seconds")
	}
	d, address, expires, err := s.assets.Sign(ctx, asset.Signing{Ref: ref, Variant: r.GetVariant(), FileName: r.GetFileName(), Lifetime: lifetime}, viewer(ctx), seenBy(call))
	tell(call, d.Sight)
	if err != nil {
		return nil, err
	}
	if address == "" {
		return nil, noContent(d, r.GetVariant())
	}
	return &assetv1.SignedUrl{Path: address, ExpireTime: timestamppb.New(expires)}, nil
}

// GetUsage answers what a user's assets take up.
func (s *Server) GetUsage(ctx context.Context, r *assetv1.GetUsageRequest) (*assetv1.Usage, error) {
	call := rpc.FromContext(ctx)
	user, err := userOf(ctx, r.GetUserId(), userField)
	if err != nil {
		return nil, err
	}
	c, quota, err := s.assets.Usage(ctx, user, seenBy(call)(user))
	if err != nil {
		return nil, err
	}
	resource.Tell(call, asset.ServiceName, c)
	used := asset.Used(c.Record)
	return &assetv1.Usage{Bytes: used.Bytes, Assets: used.Assets, MaxBytes: quota.Bytes, MaxAssets: quota.Assets}, nil
}

// seenBy tells what a call's token covers.
func seenBy(call *rpc.Call) copies.SeenFunc { return resource.SeenBy(call, asset.ServiceName) }

// viewer is the caller.
func viewer(ctx context.Context) asset.Viewer {
	c := auth.CallerFrom(ctx)
	return asset.Viewer{User: c.User, Admin: c.Admin()}
}

const (
	ownerField = "owner_id"
	userField  = "user_id"
	// What faults call an asset and a user.
	anAsset, aUser = "an asset", "a user"
)

// named is the asset that a request names.
func named(ctx context.Context, assetID, ownerID string) (copies.Ref, error) {
	owner, err := userOf(ctx, ownerID, ownerField)
	if err != nil {
		return copies.Ref{}, err
	}
	one, err := resource.ParseID(assetID, "id", anAsset)
	return copies.Ref{User: owner, ID: one}, err
}

// userOf is the user whom a field names, or the caller. A service that calls is no user.
func userOf(ctx context.Context, text, field string) (id.ID, error) {
	if caller := auth.CallerFrom(ctx); text == "" && !caller.User.IsZero() {
		return caller.User, nil
	}
	return resource.ParseID(text, field, aUser)
}

func pageSize(asked int32) int {
	if asked == 0 {
		return defaultPage
	}
	return min(int(asked), maxPage)
}

// tell notes all that an answer about an asset depends on.
func tell(call *rpc.Call, s asset.Sight) {
	if !s.User.IsZero() {
		resource.Tell(call, asset.ServiceName, s.Copy)
	}
	if !s.Ledger.User.IsZero() {
		resource.Tell(call, asset.ServiceName, s.Ledger)
	}
}

func wrote(call *rpc.Call, r asset.Result, v asset.Viewer, err error) (*assetv1.Asset, error) {
	if err != nil {
		return nil, err
	}
	resource.Written(call, asset.ServiceName, r)
	if !r.Found { // its owner was deleted meanwhile
		return nil, notFound(r.Ref)
	}
	return message(r.Copy, v)
}

func notFound(ref copies.Ref) *fault.Error {
	return fault.New(fault.NotFound, "user %s has no asset %s", ref.User, ref.ID)
}
