package asset

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

// charge admits and charges at a place, and says whether it fitted.
func (p *place) charge(t require, user id.ID, quota, more Usage) bool {
	t.Helper()
	shelf, _ := read[*assetv1.ShelfRecord](t, p, ShelfType, user)
	if err := quota.Admit(Used(shelf), more); err != nil {
		if fault.From(err).Kind != fault.TooLarge {
			t.Fatal(err)
		}
		return false
	}
	Charge(shelf, more)
	p.write(t, ShelfType, user, shelf, false)
	return true
}

// TestUsageIsTheSumOfWhatWasCharged, wherever it was charged; and it exceeds the quota by at most what each of the other regions knew to be free.
func TestUsageIsTheSumOfWhatWasCharged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user := someID(t, 0)
		all := places(t, user, 3)
		quota := Usage{1000, 20}
		var charged Usage
		some := func() Usage {
			return Usage{rapid.Int64Range(0, 300).Draw(t, "bytes"), rapid.Int64Range(0, 2).Draw(t, "assets")}
		}
		take := func(p *place, more Usage) {
			if more != (Usage{}) && p.charge(t, user, quota, more) {
				charged = Usage{charged.Bytes + more.Bytes, charged.Assets + more.Assets}
			}
		}
		for range rapid.IntRange(0, 5).Draw(t, "together") {
			take(all[rapid.IntRange(0, 2).Draw(t, "at")], some())
			meetAll(t, all)
		}
		if charged.Bytes > quota.Bytes || charged.Assets > quota.Assets {
			t.Fatalf("regions that see each other took %v", charged)
		}
		free := Usage{quota.Bytes - charged.Bytes, quota.Assets - charged.Assets}
		for range rapid.IntRange(0, 40).Draw(t, "apart") {
			take(all[rapid.IntRange(0, 2).Draw(t, "at")], some())
			if rapid.IntRange(0, 9).Draw(t, "hear") == 0 {
				meetSome(t, all)
			}
		}
		if charged.Bytes > quota.Bytes+2*free.Bytes || charged.Assets > quota.Assets+2*free.Assets {
			t.Fatalf("%v were taken, %v were free", charged, free)
		}
		meetAll(t, all)
		for i, p := range all {
			shelf, _ := read[*assetv1.ShelfRecord](t, p, ShelfType, user)
			if Used(shelf) != charged {
				t.Fatalf("place %d counts %v, %v were charged", i, Used(shelf), charged)
			}
			if full := charged.Bytes >= quota.Bytes; full && p.charge(t, user, quota, Usage{Bytes: 1}) {
				t.Fatalf("place %d takes more than %v", i, charged)
			}
		}
	})
}

// TestCorrect: what two regions counted that did the same without seeing each other is put right by one.
func TestCorrect(t *testing.T) {
	user := someID(t, 0)
	all := places(t, user, 3)
	all[0].write(t, ShelfType, user, &assetv1.ShelfRecord{Bytes: 100, Assets: 2}, false)
	meetAll(t, all)
	for _, p := range all { // one asset is deleted in all of them
		shelf, _ := read[*assetv1.ShelfRecord](t, p, ShelfType, user)
		Charge(shelf, Usage{-60, -1})
		p.write(t, ShelfType, user, shelf, false)
	}
	meetAll(t, all)
	shelf, _ := read[*assetv1.ShelfRecord](t, all[1], ShelfType, user)
	if shelf.GetBytes() != -80 || Used(shelf) != (Usage{}) {
		t.Errorf("%v, used %v", shelf, Used(shelf))
	}
	Correct(shelf, Usage{40, 1})
	all[1].write(t, ShelfType, user, shelf, false)
	meetAll(t, all)
	for i, p := range all {
		if shelf, _ := read[*assetv1.ShelfRecord](t, p, ShelfType, user); Used(shelf) != (Usage{40, 1}) {
			t.Errorf("place %d counts %v", i, Used(shelf))
		}
	}
}

func TestAdmit(t *testing.T) {
	quota := Usage{1000, 10}
	for name, tt := range map[string]struct {
		used, more Usage
		ok         bool
	}{
		"all of it":                             {Usage{}, quota, true},
		"a byte too many":                       {Usage{Bytes: 1}, Usage{Bytes: 1000}, false},
		"an asset too many":                     {Usage{Assets: 10}, Usage{Assets: 1}, false},
		"nothing, above the quota":              {Usage{2000, 20}, Usage{}, true},
		"bytes, when there are too many assets": {Usage{500, 20}, Usage{Bytes: 500}, true},
		"less, above the quota":                 {Usage{2000, 20}, Usage{-1, -1}, true},
		"more than can be counted":              {Usage{Bytes: 1}, Usage{Bytes: math.MaxInt64}, false},
		"above more than can be told":           {Usage{Bytes: math.MaxInt64}, Usage{Bytes: 1}, false},
	} {
		if err := quota.Admit(tt.used, tt.more); (err == nil) != tt.ok || err != nil && fault.From(err).Kind != fault.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (Usage{}).Admit(Usage{}, Usage{Assets: 1}); err == nil {
		t.Error("something fits into nothing")
	}
}

func TestTakes(t *testing.T) {
	rec := &assetv1.AssetRecord{State: assetv1.AssetRecord_STATE_UPLOADING}
	if got, err := Takes(rec); err != nil || got != (Usage{0, 1}) {
		t.Errorf("while it is uploading: %v, %v", got, err)
	}
	if err := Complete(rec, contentOf(9), start); err != nil {
		t.Fatal(err)
	}
	if got, err := Takes(rec); err != nil || got != (Usage{9, 1}) {
		t.Errorf("with content: %v, %v", got, err)
	}
}
