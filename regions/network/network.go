// Package network owns the network of one lab: a namespace for each region and one for the world of clients, with the
// addresses of the topology, joined by an emulated WAN.
//
// Namespaces are called Prefix(lab) followed by the region's name, or by "world". They outlive the process, so that what
// runs in them can be found after a crash; the WAN does not, so a lab whose process died is silent. Create takes over
// namespaces of the lab that exist already. Two labs never meet: their namespaces have the same addresses inside and no
// way to each other, nor to the host.
package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"regexp"

	"golang.org/x/sys/unix"

	"antipode.example/regions/netns"
	"antipode.example/regions/topology"
	"antipode.example/regions/wan"
)

const (
	device = "wan0"
	// mtu is that of the Internet; there is no segmentation offload, so a rate and a loss act on packets as on a real line.
	mtu = 1500
)

var validLab = regexp.MustCompile(`^[a-z0-9]{1,32}$`)

// ValidLab says whether s may be the name of a lab: 1 to 32 letters a-z and digits. There are no hyphens in it, so that no
// lab's Prefix begins the name of another lab's namespace.
func ValidLab(s string) bool { return validLab.MatchString(s) }

// Prefix is what the names of the lab's namespaces begin with.
func Prefix(lab string) string { return "antipode-" + lab + "-" }

// Network is the network of a lab in this process. Namespaces live on after Close; the WAN doesn't.
type Network struct {
	wan    *wan.WAN
	spaces map[string]*netns.Namespace
	tuns   map[string]*netns.TUN
	made   []string // names of namespaces that Create made, in order
}

// Create makes the network, or takes it over from a process that ended. Packets move between namespaces once Run runs.
// Seed fixes the chance of loss and jitter. After an error nothing is left that wasn't there before.
func Create(lab string, t *topology.Topology, seed uint64, log *slog.Logger) (*Network, error) {
	if !ValidLab(lab) {
		return nil, fmt.Errorf("create network: lab name %q: want 1 to 32 letters a-z and digits", lab)
	}
	w, err := wan.New(wan.FromTopology(t, seed), log)
	if err != nil {
		return nil, fmt.Errorf("create network of lab %s: %w", lab, err)
	}
	n := &Network{wan: w, spaces: map[string]*netns.Namespace{}, tuns: map[string]*netns.TUN{}}
	if err := n.build(lab, t); err != nil {
		return nil, errors.Join(fmt.Errorf("create network of lab %s: %w", lab, err), n.undo())
	}
	return n, nil
}

func (n *Network) build(lab string, t *topology.Topology) error {
	for _, r := range t.Regions {
		if err := n.add(lab, r.Name, t.Addresses(r), r.Uplink()); err != nil {
			return err
		}
	}
	var places []netip.Addr
	for _, p := range append(t.World[:len(t.World):len(t.World)], t.Doors()...) {
		places = append(places, p.Address)
	}
	// A client that asks for no address is at the first place.
	return n.add(lab, topology.World, places, places[0])
}

// add makes or takes over one namespace.
func (n *Network) add(lab, name string, addrs []netip.Addr, from netip.Addr) error {
	full := Prefix(lab) + name
	ns, err := netns.Open(full)
	if errors.Is(err, fs.ErrNotExist) {
		if err := netns.Delete(full); err != nil { // half made, perhaps
			return err
		}
		ns, err = netns.Create(full)
		if err == nil {
			n.made = append(n.made, full)
		}
	}
	if err != nil {
		return err
	}
	n.spaces[name] = ns
	prefixes := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		prefixes = append(prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	if err := ns.AddAddrs(prefixes...); err != nil {
		return err
	}
	tun, err := ns.OpenTUN(device, mtu)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("another process runs this lab: %w", err)
	}
	if err != nil {
		return err
	}
	n.tuns[name] = tun
	return ns.AddRoute(topology.Everything(), device, from)
}

// Run carries packets between the namespaces until ctx is done; see wan.WAN.Run.
func (n *Network) Run(ctx context.Context) error {
	devices := make(map[string]wan.Device, len(n.tuns))
	for name, t := range n.tuns {
		devices[name] = t
	}
	return n.wan.Run(ctx, devices)
}

// WAN returns the links, to look at and to change.
func (n *Network) WAN() *wan.WAN { return n.wan }

// Namespace returns the namespace of a region, or that of the clients (topology.World). It panics when there is none.
func (n *Network) Namespace(name string) *netns.Namespace {
	ns, ok := n.spaces[name]
	if !ok {
		panic(fmt.Sprintf("network: no namespace %q", name))
	}
	return ns
}

// Close takes the devices away and lets go of the namespaces, which stay, with what runs in them. Run must have returned.
func (n *Network) Close() error {
	var errs []error
	for _, t := range n.tuns {
		errs = append(errs, t.Close())
	}
	for _, ns := range n.spaces {
		errs = append(errs, ns.Close())
	}
	return errors.Join(errs...)
}

// undo closes everything and removes the namespaces that Create made.
func (n *Network) undo() error {
	errs := []error{n.Close()}
	for _, name := range n.made {
		errs = append(errs, netns.Delete(name))
	}
	return errors.Join(errs...)
}

// Remove removes all namespaces of a lab, those of a process that was killed as well, and returns their names. End the
// processes in them first (see Pids): they would live on in namespaces without names.
func Remove(lab string) ([]string, error) {
	if !ValidLab(lab) {
		return nil, fmt.Errorf("remove network: %q is not the name of a lab", lab)
	}
	names, err := netns.DeleteAll(Prefix(lab))
	if err != nil {
		return names, fmt.Errorf("remove network of lab %s: %w", lab, err)
	}
	return names, nil
}

// Pids lists the processes that run in namespaces of a lab now, whoever started them.
func Pids(lab string) ([]int, error) {
	if !ValidLab(lab) {
		return nil, fmt.Errorf("list processes: %q is not the name of a lab", lab)
	}
	names, err := netns.List(Prefix(lab))
	if err != nil {
		return nil, fmt.Errorf("list processes of lab %s: %w", lab, err)
	}
	var pids []int
	for _, name := range names {
		found, err := pidsIn(name)
		if err != nil {
			return nil, fmt.Errorf("list processes of lab %s: %w", lab, err)
		}
		pids = append(pids, found...)
	}
	return pids, nil
}

func pidsIn(name string) ([]int, error) {
	ns, err := netns.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	pids, err := ns.Pids()
	return pids, errors.Join(err, ns.Close())
}
