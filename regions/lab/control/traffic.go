package control

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"

	"antipode.example/regions/lab"
	"antipode.example/regions/topology"
)

// trafficPath is where the traffic controllers of the regions are reached through the daemon: /v1/traffic/REGION/ and what the controller serves.
const trafficPath = "/v1/traffic/"

// traffic passes a request on to the traffic controller of a region.
func (s *Server) traffic(w http.ResponseWriter, r *http.Request) {
	l, err := s.ready()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	region, err := l.Region(r.PathValue("region"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	transport := &http.Transport{DialContext: region.Dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	inside := &url.URL{Scheme: "http", Host: netip.AddrPortFrom(region.Topology.Traffic(), topology.PortTraffic).String(), Path: "/" + r.PathValue("rest"), RawQuery: r.URL.RawQuery}
	proxy := httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.Out.URL, p.Out.Host = inside, "" },
		Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the controller of "+region.Topology.Name+" does not answer: "+err.Error(), http.StatusBadGateway)
		},
	}
	proxy.ServeHTTP(w, r)
}

// TrafficAddress is that of a region's traffic controller, for a client of package regions/control that connects by Client.DialContext.
func TrafficAddress(region string) string { return "lab" + trafficPath + region }

// Names asks what the name servers answer.
func (c *Client) Names(ctx context.Context, q lab.NamesRequest) (lab.NamesReport, error) {
	var r lab.NamesReport
	return r, c.call(ctx, http.MethodPost, "/v1/names", q, &r, nil)
}
