package rpc

import (
	"context"
	"net/netip"
	"strings"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// SourceOf is the address of a request's client, without a port and spelled in one way: the last one in x-forwarded-for, which the region's load balancer sets, or else that of the peer, "host:port". The header is
// believed whoever sends it, so it says who the client is only where nobody but the load balancer and other services can reach this one. Empty when neither is an address.
func SourceOf(forwarded []string, peer string) string {
	if len(forwarded) > 0 {
		last := forwarded[len(forwarded)-1]
		if a, err := netip.ParseAddr(strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])); err == nil {
			return plain(a)
		}
	}
	if a, err := netip.ParseAddrPort(peer); err == nil {
		return plain(a.Addr())
	}
	return ""
}

func plain(a netip.Addr) string { return a.Unmap().WithZone("").String() }

// source is SourceOf a call over gRPC, or from within the process.
func source(ctx context.Context, sent metadata.MD) string {
	address := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		address = p.Addr.String()
	}
	return SourceOf(sent[HeaderForwardedFor], address)
}
