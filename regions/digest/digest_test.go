package digest_test

import (
	"testing"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/regions/digest"
)

// holds is a region that holds one slot.
func holds(vectors, states string) digest.Slots {
	return digest.Read(&replicationv1.DigestResponse{Slots: []*replicationv1.SlotDigest{{Slot: 7, Vectors: []byte(vectors), States: []byte(states)}}})
}

func TestCompare(t *testing.T) {
	for name, tc := range map[string]struct {
		regions          []digest.Slots
		behind, diverged bool
	}{
		"none answered":                 {[]digest.Slots{nil, nil}, false, false},
		"all are empty":                 {[]digest.Slots{{}, {}}, false, false},
		"equal":                         {[]digest.Slots{holds("v", "s"), holds("v", "s")}, false, false},
		"one has it":                    {[]digest.Slots{holds("v", "s"), {}}, true, false},
		"one didn't answer, two differ": {[]digest.Slots{nil, holds("v", "s"), holds("w", "t")}, true, false},
		"one lacks a write":             {[]digest.Slots{holds("v", "s"), holds("w", "t"), holds("v", "s")}, true, false},
		"one didn't answer":             {[]digest.Slots{holds("v", "s"), nil}, false, false},
		"one is behind":                 {[]digest.Slots{holds("v", "s"), holds("w", "s")}, true, false},
		"equal vectors, other data":     {[]digest.Slots{holds("v", "s"), holds("v", "t")}, false, true},
		"both":                          {[]digest.Slots{holds("v", "s"), holds("v", "t"), holds("w", "s")}, true, true},
	} {
		if behind, diverged := digest.Compare(7, tc.regions...); behind != tc.behind || diverged != tc.diverged {
			t.Errorf("%s: behind %t, diverged %t", name, behind, diverged)
		}
	}
}
