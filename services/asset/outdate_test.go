package asset

import (
	"testing"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/causal"
)

func TestOutdates(t *testing.T) {
	of, write := someID(t, 1), causal.Dot{Replica: causal.NewReplica(1, 1), N: 7}
	leaf := func(field uint32, dot causal.Dot) *recordv1.Leaf {
		return &recordv1.Leaf{Path: []uint32{field}, Dot: dot.Proto()}
	}
	for name, test := range map[string]struct {
		rec  *recordv1.Record
		want string
	}{
		"a new name":                {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{leaf(1, write)}}, "asset-" + of.String()},
		"a new description":         {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{leaf(2, write)}}, ""},
		"a new visibility":          {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{leaf(2, write), leaf(3, write)}}, "asset-" + of.String()},
		"content":                   {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{leaf(6, write)}}, "asset-" + of.String()},
		"variants":                  {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{{Path: []uint32{8}, Key: []byte("thumb"), Dot: write.Proto()}}}, ""},
		"an earlier visibility":     {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{leaf(3, causal.Dot{Replica: write.Replica, N: 6})}}, ""},
		"a field of the future":     {&recordv1.Record{Type: RecordType, Leaves: []*recordv1.Leaf{leaf(3000, write), leaf(1<<32-1, write)}}, ""},
		"a deletion":                {&recordv1.Record{Type: RecordType, Deleted: leaf(0, write)}, "asset-" + of.String()},
		"a user who counts":         {&recordv1.Record{Type: ShelfType, Leaves: []*recordv1.Leaf{leaf(1, write)}}, ""},
		"a user who is gone":        {&recordv1.Record{Type: ShelfType, Deleted: leaf(0, write)}, "user-" + of.String()},
		"a purchase":                {&recordv1.Record{Type: LedgerType, Leaves: []*recordv1.Leaf{leaf(1, write), leaf(3, write)}}, ""},
		"a type that is not known":  {&recordv1.Record{Type: "other", Deleted: leaf(0, write)}, ""},
		"an asset that has nothing": {&recordv1.Record{Type: RecordType}, ""},
	} {
		test.rec.Id = of[:]
		tag, ok, err := Outdates(test.rec, write)
		if err != nil || tag != test.want || ok != (test.want != "") {
			t.Errorf("%s: %q, %v, %v; want %q", name, tag, ok, err, test.want)
		}
	}
	if _, _, err := Outdates(&recordv1.Record{Type: RecordType, Id: []byte("x")}, write); err == nil {
		t.Error("a record whose id is no id has been read")
	}
}
