package server

import (
	"sync/atomic"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count with atomics, for a query may cost no more; they are read when Prometheus asks. CoreDNS itself refuses other classes than IN and versions of EDNS, and what is no query: those are not counted.
type metrics struct {
	regions []string
	queries [kinds][rcodes]atomic.Uint64
	// first counts answers for geo names by the region that was nearest.
	first []atomic.Uint64
	state *state
}

// rcodes are those that are answered: NOERROR to REFUSED.
const rcodes = dns.RcodeRefused + 1

func newMetrics(cfg Config, s *state) *metrics {
	m := &metrics{state: s, first: make([]atomic.Uint64, len(cfg.Regions))}
	for _, r := range cfg.Regions {
		m.regions = append(m.regions, r.Name)
	}
	return m
}

func (m *metrics) count(k kind, rcode int) {
	if rcode < rcodes {
		m.queries[k][rcode].Add(1)
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("antipode_dns_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector. It says nothing: what is collected depends on the configuration.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	counter := func(desc *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(name, help string, v float64) {
		out <- prometheus.MustNewConstMetric(describe(name, help), prometheus.GaugeValue, v)
	}
	queries := describe("queries_total", "Queries, by kind of the name and answer.", "name", "rcode")
	for k := range kinds {
		for rcode := range rcodes {
			if n := m.queries[k][rcode].Load(); n > 0 {
				counter(queries, n, k.String(), dns.RcodeToString[rcode])
			}
		}
	}
	first := describe("first_total", "Answers for geo names, by the region that comes first.", "region")
	for i, name := range m.regions {
		counter(first, m.first[i].Load(), name)
	}
	news := describe("snapshots_total", "Snapshots that came from controllers, by what became of them.", "result")
	for i, result := range results {
		counter(news, m.state.counts[i].Load(), result)
	}
	about := m.state.about()
	gauge("snapshot_revision", "Revision of the global store that is answered from; 0 without one.", float64(about.revision))
	if about.heard {
		gauge("snapshot_age_seconds", "Time since a controller confirmed what is answered.", about.age.Seconds())
	}
	gauge("authoritative", "1 while names are answered; 0 without a snapshot, and while this region is fenced.", about.authoritative)
	weight := describe("region_weight", "Share, in percent, of the clients nearest to a region that are sent there; 0 when none are.", "region")
	for i, c := range about.regions {
		share := 0
		if c.in {
			share = c.weight
		}
		out <- prometheus.MustNewConstMetric(weight, prometheus.GaugeValue, float64(share), m.regions[i])
	}
}
