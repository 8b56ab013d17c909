package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// AddAddrs gives the loopback device addresses, each on its own or a whole range (a range on loopback is local in every
// address). One that it has already is no error.
func (n *Namespace) AddAddrs(addrs ...netip.Prefix) error {
	return n.netlink("add addresses", func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		for _, a := range addrs {
			if err := h.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(a), Scope: unix.RT_SCOPE_UNIVERSE}); err != nil {
				return fmt.Errorf("add %v: %w", a, err)
			}
		}
		return nil
	})
}

// AddRoute sends what goes to dst out of a device. Sockets that are bound to no address send from src, which the namespace
// must have. A route to dst that exists already is replaced.
func (n *Namespace) AddRoute(dst netip.Prefix, device string, src netip.Addr) error {
	return n.netlink("add route", func(h *netlink.Handle) error {
		dev, err := h.LinkByName(device)
		if err != nil {
			return fmt.Errorf("find %s: %w", device, err)
		}
		route := &netlink.Route{LinkIndex: dev.Attrs().Index, Dst: ipNet(dst), Src: src.AsSlice(), Scope: unix.RT_SCOPE_LINK}
		if err := h.RouteReplace(route); err != nil {
			return fmt.Errorf("to %v by %s from %v: %w", dst, device, src, err)
		}
		return nil
	})
}

// Devices lists the network devices of the namespace.
func (n *Namespace) Devices() ([]string, error) {
	var names []string
	err := n.netlink("list devices", func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			names = append(names, l.Attrs().Name)
		}
		return nil
	})
	return names, err
}

func (n *Namespace) up(device string) error {
	return n.netlink("start "+device, func(h *netlink.Handle) error {
		dev, err := h.LinkByName(device)
		if err != nil {
			return err
		}
		return h.LinkSetUp(dev)
	})
}

// netlink runs fn with a netlink socket inside the namespace.
func (n *Namespace) netlink(doing string, fn func(*netlink.Handle) error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return fmt.Errorf("%s in %s: %w", doing, n.name, os.ErrClosed)
	}
	h, err := netlink.NewHandleAt(vns.NsHandle(n.fd), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s in %s: netlink: %w", doing, n.name, err)
	}
	defer h.Close()
	if err := fn(h); err != nil {
		return fmt.Errorf("%s in %s: %w", doing, n.name, err)
	}
	return nil
}

// setDefaults keeps the kernel of a new namespace from sending what nobody asked for: it forwards nothing, and new
// devices have no IPv6 (which would announce itself). It lets everybody listen on low ports, such as that of DNS. It acts on the namespace of the calling thread.
func setDefaults() error {
	for path, want := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":                 "0",
		"/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
		"/proc/sys/net/ipv6/conf/default/disable_ipv6":  "1",
	} {
		have, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(have)) == want {
			continue
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil { //nolint:gosec // the file exists, and the kernel owns its mode
			return fmt.Errorf("set %s: %w", path, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
