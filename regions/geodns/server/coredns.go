package server

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
)

const (
	pluginName = "geo"
	serverType = "dns"
)

// coredns guards what CoreDNS and Caddy keep for the whole process: the list of directives, and the registry of plugins. There is no other way to hand a value to the setup of a plugin than one for the whole
// process either, so servers are started one after the other. It is the only state of this kind, and there because theirs is.
var coredns struct {
	sync.Mutex
	registered bool
	// next is what the server that is being started answers with.
	next struct {
		handler *handler
		listen  netip.AddrPort
	}
}

// startCoreDNS makes CoreDNS listen, with the plugin geo and no other.
func startCoreDNS(h *handler, listen netip.AddrPort) (*caddy.Instance, error) {
	coredns.Lock()
	defer coredns.Unlock()
	if !coredns.registered {
		if err := errors.Join(dnsserver.SetDirectives([]string{pluginName}), dnsserver.Register()); err != nil {
			return nil, fmt.Errorf("register with CoreDNS: %w", err)
		}
		plugin.Register(pluginName, setup)
		caddy.Quiet, dnsserver.Quiet = true, true // our own log says what listens
		coredns.registered = true
	}
	coredns.next.handler, coredns.next.listen = h, listen
	instance, err := caddy.Start(caddy.CaddyfileInput{
		Filepath: "Corefile", ServerTypeName: serverType, Contents: fmt.Appendf(nil, ".:%d {\n%s\n}\n", listen.Port(), pluginName),
	})
	if err != nil {
		return nil, fmt.Errorf("start CoreDNS at %s: %w", listen, err)
	}
	return instance, nil
}

// setup is called by caddy.Start, while coredns is locked. All zones lead to the plugin, so that it is the one to refuse what is not ours.
func setup(c *caddy.Controller) error {
	h, listen := coredns.next.handler, coredns.next.listen
	cfg := dnsserver.GetConfig(c)
	cfg.ListenHosts = []string{listen.Addr().String()}
	cfg.AddPlugin(func(plugin.Handler) plugin.Handler { return h })
	return nil
}

// stopCoreDNS lets queries under way finish, for 5 s at most.
func stopCoreDNS(instance *caddy.Instance) error {
	err := errors.Join(append(instance.ShutdownCallbacks(), instance.Stop())...)
	instance.Wait()
	if err != nil {
		return fmt.Errorf("stop CoreDNS: %w", err)
	}
	return nil
}
