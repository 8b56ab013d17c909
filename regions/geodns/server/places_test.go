package server

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// TestPlaces compares with looking at all of them.
func TestPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := func() netip.Prefix { // dense, so that places are within others
			if rapid.Bool().Draw(t, "v6") {
				return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, byte(rapid.IntRange(0, 7).Draw(t, "a"))}), rapid.IntRange(0, 18).Draw(t, "bits")).Masked()
			}
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(rapid.IntRange(0, 255).Draw(t, "a"))}), rapid.IntRange(0, 18).Draw(t, "bits")).Masked()
		}
		var cfg Config
		seen := map[netip.Prefix]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "places") {
			if p := prefix(); !seen[p] {
				seen[p] = true
				cfg.Places = append(cfg.Places, Place{Prefix: p})
			}
		}
		all := newPlaces(cfg)
		client := prefix()
		var want netip.Prefix
		for _, p := range cfg.Places {
			if p.Prefix.Bits() <= client.Bits() && p.Prefix.Contains(client.Addr()) && (!want.IsValid() || p.Prefix.Bits() > want.Bits()) {
				want = p.Prefix
			}
		}
		got := all.find(client)
		if got.prefix != want {
			t.Fatalf("%s is in %s, want %s", client, got.prefix, want)
		}
		for _, p := range cfg.Places {
			if got != all.anywhere && p.Prefix != want && want.Overlaps(p.Prefix) && p.Prefix.Bits() > want.Bits() && !got.split {
				t.Fatalf("%s is not called split, and %s is within", want, p.Prefix)
			}
		}
	})
}
