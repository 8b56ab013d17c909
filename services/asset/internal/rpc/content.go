package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/resource"
	"antipode.example/platform/rpc"
	"antipode.example/services/asset"
	"antipode.example/services/asset/internal/media"
)

// GetContent says what a viewer downloads.
func (s *Server) GetContent(ctx context.Context, r *assetv1.GetContentRequest) (*assetv1.Content, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	d, err := s.assets.Content(ctx, ref, r.GetVariant(), viewer(ctx), seenBy(call))
	return content(call, d, r.GetVariant(), err)
}

// GetSignedContent says what a signed URL allows to download.
func (s *Server) GetSignedContent(ctx context.Context, r *assetv1.GetSignedContentRequest) (*assetv1.Content, error) {
	call := rpc.FromContext(ctx)
	d, err := s.assets.SignedContent(ctx, r.GetMethod(), r.GetUrl(), seenBy(call))
	return content(call, d, "", err)
}

// GetPublicContent says what everybody may download.
func (s *Server) GetPublicContent(ctx context.Context, r *assetv1.GetPublicContentRequest) (*assetv1.Content, error) {
	call := rpc.FromContext(ctx)
	sum, err := blob.ParseSum(r.GetSha256())
	if err != nil {
		return nil, err
	}
	owner, err := resource.ParseID(r.GetOwnerId(), ownerField, aUser)
	if err != nil {
		return nil, err
	}
	one, err := resource.ParseID(r.GetAssetId(), "asset_id", anAsset)
	if err != nil {
		return nil, err
	}
	d, err := s.assets.PublicContent(ctx, copies.Ref{User: owner, ID: one}, sum, seenBy(call)(owner))
	m, err := content(call, d, "", err)
	if err != nil {
		return nil, err
	}
	m.Public = true
	return m, nil
}

// GetBlob lets in whom the guard lets in.
func (s *Server) GetBlob(_ context.Context, r *assetv1.GetBlobRequest) (*emptypb.Empty, error) {
	if _, err := blob.ParseSum(r.GetSha256()); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// BeginUpload says whether content may come.
func (s *Server) BeginUpload(ctx context.Context, r *assetv1.BeginUploadRequest) (*assetv1.BeginUploadResponse, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	c, room, err := s.assets.BeginUpload(ctx, ref, r.GetSize(), seenBy(call)(ref.User))
	tell(call, asset.Sight{Copy: c})
	if err != nil {
		return nil, err
	}
	return &assetv1.BeginUploadResponse{MaxBytes: room.Upload, LeftBytes: room.Left, Id: ref.ID.String(), OwnerId: ref.User.String()}, nil
}

// CompleteUpload gives an asset the content that has come.
func (s *Server) CompleteUpload(ctx context.Context, r *assetv1.CompleteUploadRequest) (*assetv1.Asset, error) {
	call := rpc.FromContext(ctx)
	ref, err := named(ctx, r.GetId(), r.GetOwnerId())
	if err != nil {
		return nil, err
	}
	of, err := blob.RefOf(r.GetSha256(), r.GetSize())
	if err != nil {
		return nil, err
	}
	result, err := s.assets.CompleteUpload(ctx, asset.Upload{Ref: ref, Blob: of, Type: media.Type(r.GetContentType()), Remote: resource.Remote(call)}, seenBy(call)(ref.User))
	return wrote(call, result, viewer(ctx), err)
}

// content is a download as the handlers of plain HTTP need it.
func content(call *rpc.Call, d asset.Download, variant string, err error) (*assetv1.Content, error) {
	if err != nil {
		return nil, err
	}
	tell(call, d.Sight)
	if d.Content == nil {
		return nil, noContent(d, variant)
	}
	return &assetv1.Content{
		Sha256: d.Content.GetSha256(), Size: d.Content.GetSize(), ContentType: d.Content.GetContentType(), FileName: d.FileName, AssetId: d.ID.String(), OwnerId: d.User.String(),
	}, nil
}

// noContent is why there is nothing to download.
func noContent(d asset.Download, variant string) *fault.Error {
	switch {
	case !d.Found:
		return notFound(d.Ref)
	case variant != "":
		return fault.New(fault.NotFound, "asset %s has no variant %q, or not yet", d.ID, variant)
	}
	return fault.New(fault.NotFound, "asset %s has no such content, or none that this region has heard of: who sends the antipode-token of the upload's answer is waited for", d.ID)
}
