package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
)

// endedLong is how long an incarnation that has ended may stay open before somebody should know: closing takes some tens of seconds.
const endedLong = 2 * time.Minute

// Need is something that a person should look at.
type Need struct {
	Service string `json:"service"`
	// Kind is dead_letters, parked, diverged, no_standby, catching_up, clock, silent_region, ended or forgotten.
	Kind string `json:"kind"`
	Text string `json:"text"`
	// Do is what to do about it.
	Do string `json:"do"`
}

// needsPerson is what one region's instances of a service say together. What they read from the shards is the same for all; of the rest each knows a part.
func needsPerson(service string, answers []*replicationv1.LagResponse) []Need {
	var letters, parked uint64
	var catchingUp bool
	var refusal string
	bare := map[string]bool{}
	peers := map[string][]*replicationv1.PeerState{}
	ended := map[uint32]*replicationv1.EndedReplica{}
	var forgotten uint64
	for _, a := range answers {
		letters, parked = max(letters, a.GetDeadLetters()), max(parked, a.GetParkedLong())
		catchingUp = catchingUp || a.GetCatchingUp()
		if a.GetClockRefusal() != "" {
			refusal = a.GetClockRefusal()
		}
		for _, s := range a.GetShardsWithoutStandby() {
			bare[s] = true
		}
		forgotten += a.GetForgotten()
		for _, e := range a.GetEnded() {
			if e.GetOpenMs() >= endedLong.Milliseconds() {
				ended[e.GetReplica()] = e
			}
		}
		for _, p := range a.GetPeers() {
			peers[p.GetRegion()] = append(peers[p.GetRegion()], p)
		}
	}
	var needs []Need
	add := func(kind, do, format string, args ...any) {
		needs = append(needs, Need{Service: service, Kind: kind, Do: do, Text: fmt.Sprintf(format, args...)})
	}
	if catchingUp {
		add("catching_up", "wait; it needs one other region that answers", "has forgotten something, and serves nobody until it has fetched what the others have")
	}
	if forgotten > 0 {
		add("forgotten", "wipe the region, so that it comes back as its next incarnation; keep the logs",
			"a disk has gone back in time: other regions had writes of this region for %d users that it did not know", forgotten)
	}
	for _, replica := range slices.Sorted(maps.Keys(ended)) {
		e := ended[replica]
		add("ended", "start what it waits for; until then tokens above what is here are refused",
			"incarnation %s has ended %d s ago and is not closed: it waits for %s", causal.Replica(replica), e.GetOpenMs()/1000, e.GetWaitsFor())
	}
	if letters > 0 {
		add("dead_letters", "regionctl dlq list", "%d dead letters are open", letters)
	}
	if parked > 0 {
		add("parked", "regionctl sync, once the region that has it answers", "%d events have waited for longer than a minute for something that they build on", parked)
	}
	if len(bare) > 0 {
		add("no_standby", "bring the standby back", "no synchronous standby: writes of shards %s are on one disk only", strings.Join(slices.Sorted(maps.Keys(bare)), ", "))
	}
	if refusal != "" {
		add("clock", "set the clock right", "writes are refused: %s", refusal)
	}
	for _, region := range slices.Sorted(maps.Keys(peers)) {
		states := peers[region]
		if silent, all := heardAgo(states); all {
			add("silent_region", "look at the region and at the links to it", "%s has been silent for %d s", region, silent/1000)
		}
		if n := divergence(states); n > 0 {
			add("diverged", "regionctl sync names them; keep the logs: this is a bug", "%d users have seen the same writes as in %s, and differ", n, region)
		}
	}
	return needs
}

// heardAgo is the least time for which an instance has not heard of a region, and whether all find that too long.
func heardAgo(states []*replicationv1.PeerState) (ms int64, all bool) {
	ms, all = states[0].GetSilentMs(), true
	for _, p := range states {
		ms, all = min(ms, p.GetSilentMs()), all && p.GetSilent()
	}
	return ms, all
}

// divergence is what the last comparison found, whichever instance made it.
func divergence(states []*replicationv1.PeerState) uint64 {
	var last *replicationv1.PeerState
	for _, p := range states {
		if p.GetComparedMs() >= 0 && (last == nil || p.GetComparedMs() < last.GetComparedMs()) {
			last = p
		}
	}
	return last.GetDiverged()
}
