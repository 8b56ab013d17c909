package rpc

import (
	"log/slog"
	"testing"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/auth"
	"antipode.example/platform/auth/authtest"
	"antipode.example/platform/hlc"
	"antipode.example/platform/rpc"
)

// TestAccess calls every RPC as everybody.
func TestAccess(t *testing.T) {
	assets, content := assetv1.AssetService_ServiceDesc.ServiceName, assetv1.ContentService_ServiceDesc.ServiceName
	keys := authtest.Keys(t, "us-east", hlc.System{})
	guard, err := auth.NewGuard(auth.GuardConfig{Keys: keys, Services: []string{assets, content}})
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{Log: slog.New(slog.DiscardHandler), Access: guard})
	if err != nil {
		t.Fatal(err)
	}
	assetv1.RegisterAssetServiceServer(server, assetv1.UnimplementedAssetServiceServer{})
	assetv1.RegisterContentServiceServer(server.Local(), assetv1.UnimplementedContentServiceServer{})
	asset, operator, stranger := auth.ServiceActor("asset"), auth.ServiceActor("operator"), auth.ServiceActor("stranger")
	users := []auth.Actor{auth.User, auth.Admin}
	own := []auth.Actor{auth.Owner, auth.Admin}
	everybody := []auth.Actor{auth.Anonymous, auth.User, auth.Admin, asset, stranger}
	authtest.Walk(t, server.Conn(), keys, assets, map[string][]auth.Actor{
		"CreateAsset":     users,
		"GetAsset":        users,
		"ListAssets":      users,
		"UpdateAsset":     own,
		"DeleteAsset":     own,
		"CreateSignedUrl": users,
		"PurchaseAsset":   users,
		"ListPurchases":   own,
		"GetUsage":        {auth.Owner, auth.Admin, operator},
	})
	authtest.Walk(t, server.Conn(), keys, content, map[string][]auth.Actor{
		"GetContent":       users,
		"GetSignedContent": everybody,
		"GetPublicContent": everybody,
		"GetBlob":          {asset},
		"BeginUpload":      {auth.Owner},
		"CompleteUpload":   {auth.Owner},
	})
}
