package causal_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
)

func vectors() *rapid.Generator[causal.Vector] {
	return rapid.Custom(func(rt *rapid.T) causal.Vector {
		v := causal.Vector{}
		for _, region := range rapid.SliceOfN(rapid.Uint16Range(1, 3), 0, 4).Draw(rt, "regions") {
			v[causal.NewReplica(region, rapid.Uint16Range(1, 2).Draw(rt, "incarnation"))] = rapid.Uint64Range(1, 4).Draw(rt, "n")
		}
		return v
	})
}

func TestVectorsAreALattice(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b, c := vectors().Draw(rt, "a"), vectors().Draw(rt, "b"), vectors().Draw(rt, "c")
		join := func(vs ...causal.Vector) causal.Vector {
			out := causal.Vector{}
			for _, v := range vs {
				out.Raise(v)
			}
			return out
		}
		ab := join(a, b)
		if !ab.Dominates(a) || !ab.Dominates(b) || !ab.Equal(join(b, a)) || !join(ab, c).Equal(join(a, join(b, c))) || !join(a, a).Equal(a) {
			rt.Fatal("the maximum of two vectors is not a join")
		}
		if c.Dominates(a) && c.Dominates(b) && !c.Dominates(ab) {
			rt.Fatal("the maximum is not the least upper bound")
		}
		if a.Dominates(b) && b.Dominates(a) != a.Equal(b) {
			rt.Fatal("domination both ways is not equality")
		}
		for r, n := range a {
			if !a.Covers(causal.Dot{Replica: r, N: n}) || a.Covers(causal.Dot{Replica: r, N: n + 1}) {
				rt.Fatalf("%s does not end at %s:%d", a, r, n)
			}
		}
		if a.Dominates(b) && a.Sum() < b.Sum() {
			rt.Fatal("the greater vector has the smaller sum")
		}
		back := causal.VectorOf(a.Proto())
		if !back.Equal(a) || len(back) != len(a) {
			rt.Fatalf("%s reads back as %s", a, back)
		}
		clone := a.Clone()
		clone.Raise(b)
		if !a.Equal(back) {
			rt.Fatal("a clone shares memory")
		}
	})
}

func TestVectorsAreEqualBytes(t *testing.T) {
	a := causal.Vector{causal.NewReplica(3, 1): 1, causal.NewReplica(1, 2): 5, causal.NewReplica(1, 1): 7}
	want, err := proto.Marshal(a.Proto())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		got, err := proto.Marshal(a.Clone().Proto())
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%x and %x, %v", got, want, err)
		}
	}
	if got := a.String(); got != "{1.1:7 1.2:5 3.1:1}" {
		t.Errorf("vector prints as %s", got)
	}
}

func TestBottom(t *testing.T) {
	var none causal.Vector
	if !none.Covers(causal.Dot{}) || none.Covers(causal.Dot{Replica: 1, N: 1}) || !none.Dominates(nil) || none.Sum() != 0 || none.Clone() == nil {
		t.Error("the nil vector does not cover exactly the bottom dot")
	}
	if causal.DotOf(nil) != (causal.Dot{}) || len(causal.VectorOf(nil)) != 0 {
		t.Error("nil messages are not the bottom")
	}
	twice := &recordv1.Vector{Entries: []*recordv1.Dot{{Replica: 1, N: 2}, {Replica: 1, N: 1}, {Replica: 2}}}
	if v := causal.VectorOf(twice); len(v) != 1 || v[1] != 2 {
		t.Errorf("%v reads as %s", twice, v)
	}
}

func TestReplica(t *testing.T) {
	r := causal.NewReplica(0xfedc, 0x1234)
	if r.Region() != 0xfedc || r.Incarnation() != 0x1234 || r.String() != "65244.4660" {
		t.Errorf("replica is %s", r)
	}
	a, b := causal.Dot{Replica: r, N: 1}, causal.Dot{Replica: r, N: 2}
	if a.Compare(b) >= 0 || b.Compare(a) <= 0 || a.Compare(a) != 0 || (causal.Dot{Replica: 1, N: 9}).Compare(a) >= 0 {
		t.Error("dots are not in the order of (replica, n)")
	}
	if causal.DotOf(a.Proto()) != a {
		t.Errorf("%v reads back as %v", a, causal.DotOf(a.Proto()))
	}
}

func TestParseReplica(t *testing.T) {
	for _, r := range []causal.Replica{causal.NewReplica(1, 1), causal.NewReplica(65535, 65535), causal.NewReplica(7, 12)} {
		if got, err := causal.ParseReplica(r.String()); got != r || err != nil {
			t.Errorf("%s: %s, %v", r, got, err)
		}
	}
	for _, bad := range []string{"", "1", "1.", ".1", "0.1", "1.0", "1.65536", "65536.1", "1.1.1", "a.b", "-1.1"} {
		if got, err := causal.ParseReplica(bad); err == nil {
			t.Errorf("%q: %s", bad, got)
		}
	}
}
