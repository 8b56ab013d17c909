package control

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"

	"antipode.example/regions/lab"
	"antipode.example/regions/lab/engine"
	"antipode.example/regions/topology"
)

// trafficPath is where the traffic controllers of the regions are reached through the daemon: /v1/traffic/REGION/ and what the controller serves.
const trafficPath = "/v1/traffic/"

// traffic passes a request on to the traffic controller of a region.
func (s *Server) traffic(w http.ResponseWriter, r *http.Request) {
	l, err := s.ready()
	if err != nil {
		trafficError(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	region, err := l.Region(r.PathValue("region"))
	if err != nil {
		trafficError(w, http.StatusNotFound, err.Error())
		return
	}
	transport := &http.Transport{DialContext: region.Dial, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	inside := &url.URL{Scheme: "http", Host: netip.AddrPortFrom(region.Topology.Traffic(), topology.PortTraffic).String(), Path: "/" + r.PathValue("rest"), RawQuery: r.URL.RawQuery}
	proxy := httputil.ReverseProxy{
		Rewrite:   func(p *httputil.ProxyRequest) { p.Out.URL, p.Out.Host = inside, "" },
		Transport: transport, FlushInterval: -1,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			name := region.Topology.Name
			trafficError(w, http.StatusBadGateway, "the controller of "+name+" does not answer: ask another one, or start "+name+"/"+engine.Traffic+" ("+err.Error()+")")
		},
	}
	proxy.ServeHTTP(w, r)
}

// trafficError answers as a controller does.
func trafficError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("content-type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": text}) // who has gone misses nothing
}

// TrafficAddress is that of a region's traffic controller, for a client of package regions/control that connects by Client.DialContext.
func TrafficAddress(region string) string { return "lab" + trafficPath + region }

// Names asks what the name servers answer.
func (c *Client) Names(ctx context.Context, q lab.NamesRequest) (lab.NamesReport, error) {
	var r lab.NamesReport
	return r, c.call(ctx, http.MethodPost, "/v1/names", q, &r, nil)
}
