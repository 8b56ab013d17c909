package control

import (
	"strings"
	"testing"
	"time"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/regions/digest"
)

func slotOf(vectors, states string) digest.Slots {
	return digest.Slots{9: {Slot: 9, Users: 1, Vectors: []byte(vectors), States: []byte(states)}}
}

func TestASlotIsCleanOnceItWasSeenEqual(t *testing.T) {
	c := newComparison()
	unclean := func() int { n, _ := c.left(); return n }
	c.note(slotOf("v1", "s1"), slotOf("v2", "s2"))
	if unclean() != 1 {
		t.Errorf("behind: %d", unclean())
	}
	c.note(slotOf("v3", "s3"), slotOf("v3", "s3"))
	c.note(slotOf("v3", "s3"), slotOf("v4", "s4"))
	if unclean() != 0 {
		t.Errorf("seen equal, and written since: %d", unclean())
	}
	c.note(slotOf("v5", "s5"), slotOf("v5", "other"))
	if n, diverged := c.left(); n != 1 || diverged != 1 {
		t.Errorf("diverged, though it was clean: %d, %d", n, diverged)
	}
	c.note(slotOf("v5", "s5"), slotOf("v6", "s6"))
	if n, diverged := c.left(); n != 1 || diverged != 0 {
		t.Errorf("not seen equal since it had diverged: %d, %d", n, diverged)
	}
}

// A slot that is written all the time is never seen equal: it is clean once the region has what the other one had a while ago.
func TestASlotUnderLoad(t *testing.T) {
	replica := causal.NewReplica(1, 1)
	user := func(n uint64) vectors {
		return vectors{"ann": causal.Vector{replica: n}, "bob": causal.Vector{replica: 1}}
	}
	c := newComparison()
	round := func(own, other vectors) {
		c.note(slotOf("own", "s"), slotOf("other", "s"))
		for _, slot := range c.stubborn(stubbornSlots) {
			c.has(slot, own)
			c.want(slot, other)
		}
	}
	round(user(10), user(20))
	round(user(19), user(30))
	if n, _ := c.left(); n != 1 {
		t.Errorf("19 of 20: %d", n)
	}
	round(user(21), user(40))
	if n, _ := c.left(); n != 0 {
		t.Errorf("21 of 20: %d", n)
	}

	c = newComparison()
	round(user(10), vectors{"ann": {replica: 10}, "eve": {replica: 1}})
	for n := range uint64(10) {
		round(user(20+n), user(30))
	}
	if n, _ := c.left(); n != 1 {
		t.Errorf("eve is missing: %d", n)
	}
}

func TestLag(t *testing.T) {
	shard := func(region, name string, lag, silent int64) *replicationv1.ShardLag {
		return &replicationv1.ShardLag{Region: region, Shard: name, LagMs: lag, SilentMs: silent}
	}
	answer := func(shards ...*replicationv1.ShardLag) *replicationv1.LagResponse {
		return &replicationv1.LagResponse{Shards: shards}
	}
	for name, tc := range map[string]struct {
		answers []*replicationv1.LagResponse
		ms      int64
		err     string
	}{
		"the worst of shards and instances": {[]*replicationv1.LagResponse{answer(shard("west", "s1", 10, 500), shard("south", "s1", 9000, 0)), answer(shard("west", "s2", 20, 900), shard("west", "s1", 700, 300))}, 1000, ""},
		"no news for long":                  {[]*replicationv1.LagResponse{answer(shard("west", "s1", 10, 60_000), shard("west", "s2", 10, 0))}, 60_010, ""},
		"a shard was never heard":           {[]*replicationv1.LagResponse{answer(shard("west", "s1", 10, 0), shard("south", "s2", 10, 0))}, 0, "of 2 shards of west only 1 were heard"},
		"it has forgotten":                  {[]*replicationv1.LagResponse{{CatchingUp: true}}, 0, "it is fetching what it has forgotten"},
	} {
		ms, err := lagFrom(tc.answers, "west", 2)
		if ms != tc.ms || (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
			t.Errorf("%s: %d ms, %v", name, ms, err)
		}
	}
}

func TestBallots(t *testing.T) {
	votes := func(seq, opinions string) map[string][]byte {
		return map[string][]byte{"east": []byte(`{"seq":` + seq + `,"opinions":` + opinions + `,"later":1}`), "mars": []byte("{}")}
	}
	const south = `{"south":{"up":false,"why":"w"}}`
	tl := newTally(simNames)
	tl.hear(0, votes("1", south))
	if tl.fresh(0, "east") {
		t.Error("what was there from the beginning counts")
	}
	tl.hear(time.Second, votes("1", south))
	if tl.fresh(time.Second, "east") {
		t.Error("the same again counts")
	}
	tl.hear(2*time.Second, votes("2", south))
	if c := tl.count(2*time.Second, "south"); !tl.fresh(2*time.Second, "east") || len(c.down) != 1 || len(c.up) != 0 {
		t.Errorf("a second ballot: %+v", c)
	}
	if c := tl.count(2*time.Second, "west"); len(c.down)+len(c.up) != 0 {
		t.Errorf("of whom it says nothing: %+v", c)
	}
	if !tl.fresh(2*time.Second+stale-1, "east") || tl.fresh(2*time.Second+stale, "east") {
		t.Error("it is stale at another time")
	}
	tl.hear(3*time.Second, votes("1", south)) // another process, that counts anew
	if !tl.fresh(3*time.Second, "east") {
		t.Error("a ballot with another number doesn't count")
	}
	tl.hear(4*time.Second, votes(`"x"`, south))
	if v := tl.vote(4*time.Second, "east", "south"); tl.fresh(4*time.Second, "east") || v.Opinion != "none" || !strings.Contains(v.Why, "can not be read") {
		t.Errorf("what can't be read: %+v", v)
	}
}
