package asset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/causal"
	"antipode.example/platform/fault"
	"antipode.example/platform/id"
	"antipode.example/platform/state"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const slot = 7

// zeros is a source of ids that a test can foresee.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// someID is the n-th id of a user or of what the user has.
func someID(t require, n int) id.ID {
	t.Helper()
	v, err := id.New(start.Add(time.Duration(n)*time.Second), slot, zeros{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// require is what the helpers need of a test, be it a table's or a property's.
type require interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// place is a region with its own copy of one user.
type place struct {
	engine *state.Engine
	user   *state.User
	now    time.Time
}

func places(t require, user id.ID, n int) []*place {
	t.Helper()
	registry, err := NewRegistry()
	if err != nil {
		t.Fatal(err)
	}
	all := make([]*place, n)
	for i := range all {
		all[i] = &place{
			engine: &state.Engine{Registry: registry, Service: ServiceName, Replica: causal.NewReplica(uint16(i+1), 1)},
			user:   state.NewUser(user),
			now:    start,
		}
	}
	return all
}

// read is a record as this place has it, and whether it has it.
func read[M proto.Message](t require, p *place, recordType string, recordID id.ID) (M, bool) {
	t.Helper()
	k := state.Key{Type: recordType, ID: recordID}
	stored := p.user.Records[k]
	there := stored != nil && stored.GetDeleted() == nil && !p.user.Grave()
	m, err := p.engine.Registry.New(recordType)
	if there {
		m, err = p.engine.Registry.Decode(stored)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.(M), there
}

// write puts a record.
func (p *place) write(t require, recordType string, recordID id.ID, m proto.Message, keyed bool, touched ...string) {
	t.Helper()
	p.now = p.now.Add(time.Second)
	_, err := p.engine.Write(p.user, state.WriteOptions{Now: p.now, Keyed: keyed}, func(d *state.Draft) error {
		return d.Put(state.Key{Type: recordType, ID: recordID}, m, touched...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p *place) remove(t require, recordType string, recordID id.ID) {
	t.Helper()
	_, err := p.engine.Write(p.user, state.WriteOptions{Now: p.now}, func(d *state.Draft) error {
		return d.Delete(state.Key{Type: recordType, ID: recordID})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// change changes an asset, if it is there.
func (p *place) change(t require, asset id.ID, do func(rec *assetv1.AssetRecord)) {
	t.Helper()
	rec, there := read[*assetv1.AssetRecord](t, p, RecordType, asset)
	if !there {
		return
	}
	before := proto.CloneOf(rec)
	if do(rec); !proto.Equal(before, rec) {
		p.write(t, RecordType, asset, rec, false)
	}
}

// meet brings everything that one place has to another.
func meet(t require, from, to *place) {
	t.Helper()
	s := from.engine.State(from.user)
	s.Replica = uint32(from.engine.Replica)
	if _, err := to.engine.Merge(to.user, s); err != nil {
		t.Fatal(err)
	}
}

// meetAll lets everybody hear of everything, and sees that all have the same then.
func meetAll(t require, all []*place) {
	t.Helper()
	for range 2 {
		for _, a := range all {
			for _, b := range all {
				if a != b {
					meet(t, a, b)
				}
			}
		}
	}
	for i, p := range all {
		if p.engine.Digest(p.user) != all[0].engine.Digest(all[0].user) {
			t.Fatalf("places 0 and %d differ", i)
		}
	}
}

// meetSome may let one place hear of another.
func meetSome(t *rapid.T, all []*place) {
	t.Helper()
	from, to := rapid.IntRange(0, len(all)-1).Draw(t, "from"), rapid.IntRange(0, len(all)-1).Draw(t, "to")
	if from != to {
		meet(t, all[from], all[to])
	}
}

// contentOf is content that differs by its number.
func contentOf(n int) *assetv1.AssetRecord_Content {
	sum := sha256.Sum256([]byte{byte(n)})
	return &assetv1.AssetRecord_Content{Sha256: sum[:], Size: int64(n), ContentType: "image/jpeg"}
}

// madeOf is what a worker makes of content: the same, wherever it is made.
func madeOf(c *assetv1.AssetRecord_Content) (*assetv1.AssetRecord_Picture, map[string]*assetv1.AssetRecord_Variant) {
	thumb := sha256.Sum256(c.GetSha256())
	return &assetv1.AssetRecord_Picture{Width: int32(c.GetSize()), Height: 7, Frames: 1}, map[string]*assetv1.AssetRecord_Variant{
		"thumb": {Content: &assetv1.AssetRecord_Content{Sha256: thumb[:], Size: 3, ContentType: "image/jpeg"}, Width: 1, Height: 1},
	}
}

// TestAnAssetHasOneContent: regions upload different content to one asset, workers make variants of what is in their region, owners rename it, and all hear of each other in any order. READY stays READY; one of the contents stays, whole, and once
// a worker has seen it, its variants are its own.
func TestAnAssetHasOneContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user, asset := someID(t, 0), someID(t, 1)
		all := places(t, user, 3)
		all[0].write(t, RecordType, asset, &assetv1.AssetRecord{State: assetv1.AssetRecord_STATE_UPLOADING, OriginRegion: "a"}, false)
		meetAll(t, all)
		var uploaded [][]byte
		develop := func(p *place) {
			p.change(t, asset, func(rec *assetv1.AssetRecord) {
				c, err := Content(rec)
				if err != nil || c == nil {
					return
				}
				picture, variants := madeOf(c)
				if err := Develop(rec, c.GetSha256(), picture, variants); err != nil {
					t.Fatal(err)
				}
			})
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			p := all[rapid.IntRange(0, 2).Draw(t, "at")]
			before, _ := read[*assetv1.AssetRecord](t, p, RecordType, asset)
			switch rapid.SampledFrom([]string{"upload", "develop", "rename", "meet"}).Draw(t, "do") {
			case "upload":
				c := contentOf(rapid.IntRange(0, 3).Draw(t, "content"))
				p.change(t, asset, func(rec *assetv1.AssetRecord) {
					was, err := Content(rec)
					if err != nil {
						t.Fatal(err)
					}
					err = Complete(rec, c, p.now)
					if refused := was != nil && !proto.Equal(was, c); refused != (err != nil) || refused && fault.From(err).Kind != fault.AlreadyExists {
						t.Fatalf("%v after %v: %v", c, was, err)
					}
					if was == nil {
						uploaded = append(uploaded, c.GetSha256())
					}
				})
			case "develop":
				develop(p)
			case "rename":
				p.change(t, asset, func(rec *assetv1.AssetRecord) { rec.Name += "x" })
			case "meet":
				meetSome(t, all)
			}
			if after, _ := read[*assetv1.AssetRecord](t, p, RecordType, asset); after.GetState() < before.GetState() {
				t.Fatalf("%s became %s", before.GetState(), after.GetState())
			}
		}
		meetAll(t, all)
		rec, _ := read[*assetv1.AssetRecord](t, all[0], RecordType, asset)
		if (rec.GetState() == assetv1.AssetRecord_STATE_READY) != (len(uploaded) > 0) {
			t.Fatalf("%s after %d uploads", rec.GetState(), len(uploaded))
		}
		if len(uploaded) == 0 {
			return
		}
		// What a worker did before the regions met must neither be lost nor be taken for another content's.
		c, err := Content(rec)
		if err != nil || !slices.ContainsFunc(uploaded, func(b []byte) bool { return bytes.Equal(b, c.GetSha256()) }) || !proto.Equal(c, contentOf(int(c.GetSize()))) {
			t.Fatalf("content %v, %v", c, err)
		}
		picture, variants := madeOf(c)
		if got, err := Variants(rec); err != nil || len(got) > 0 && !proto.Equal(got["thumb"], variants["thumb"]) {
			t.Fatalf("variants %v, %v", got, err)
		}
		develop(all[2])
		meetAll(t, all)
		rec, _ = read[*assetv1.AssetRecord](t, all[1], RecordType, asset)
		if got, err := Picture(rec); err != nil || !proto.Equal(got, picture) {
			t.Fatalf("picture %v, %v", got, err)
		}
		if got, err := Variants(rec); err != nil || len(got) != 1 || !proto.Equal(got["thumb"], variants["thumb"]) {
			t.Fatalf("variants %v, %v", got, err)
		}
		kept, err := Blobs(rec)
		for _, want := range [][]byte{c.GetSha256(), variants["thumb"].GetContent().GetSha256()} {
			if err != nil || !slices.ContainsFunc(kept, func(b blob.Ref) bool { return bytes.Equal(b.SHA256[:], want) }) {
				t.Fatalf("%x is not kept: %x, %v", want, kept, err)
			}
		}
	})
}

// TestVariantsMadeElsewhereStay: a worker that looked into the content which loses must not take away what another one made of the content which stays, although it wrote later.
func TestVariantsMadeElsewhereStay(t *testing.T) {
	all := places(t, someID(t, 0), 2)
	asset := someID(t, 1)
	all[0].write(t, RecordType, asset, &assetv1.AssetRecord{State: assetv1.AssetRecord_STATE_UPLOADING}, false)
	meetAll(t, all)
	for i, p := range all {
		p.change(t, asset, func(rec *assetv1.AssetRecord) {
			if err := Complete(rec, contentOf(i+1), p.now); err != nil {
				t.Fatal(err)
			}
		})
		p.now = p.now.Add(time.Duration(i) * time.Hour)
		p.change(t, asset, func(rec *assetv1.AssetRecord) {
			picture, variants := madeOf(contentOf(i + 1))
			if err := Develop(rec, contentOf(i+1).GetSha256(), picture, variants); err != nil {
				t.Fatal(err)
			}
		})
	}
	meetAll(t, all)
	rec, _ := read[*assetv1.AssetRecord](t, all[0], RecordType, asset)
	c, err := Content(rec)
	if err != nil {
		t.Fatal(err)
	}
	picture, variants := madeOf(c)
	if got, err := Variants(rec); err != nil || len(got) != 1 || !proto.Equal(got["thumb"], variants["thumb"]) {
		t.Errorf("variants %v, %v", got, err)
	}
	if got, err := Picture(rec); err != nil || !proto.Equal(got, picture) {
		t.Errorf("picture %v, %v", got, err)
	}
	if len(all[0].user.Conflicts) != 1 {
		t.Errorf("%d conflicts, want that of the contents", len(all[0].user.Conflicts))
	}
	for _, conflict := range all[0].user.Conflicts { // the content that lost may be restored
		kept, err := BlobsInConflict(conflict)
		for i := range all {
			if want := contentOf(i + 1); err != nil || !slices.ContainsFunc(kept, func(b blob.Ref) bool { return bytes.Equal(b.SHA256[:], want.GetSha256()) && b.Size == want.GetSize() }) {
				t.Errorf("a conflict names %v, %v, and not %x", kept, err, want.GetSha256())
			}
		}
	}
	if kept, err := Blobs(rec); err != nil || len(kept) != 3 { // of the variant that lost, too: its record names it
		t.Errorf("%d blobs, %v", len(kept), err)
	}
}

// TestADeletionWins over everything that others do to the asset at the same time; and a user's over everything of the user.
func TestADeletionWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user, asset, other := someID(t, 0), someID(t, 1), someID(t, 2)
		all := places(t, user, 3)
		all[0].write(t, ShelfType, user, &assetv1.ShelfRecord{Assets: 2}, false)
		for _, a := range []id.ID{asset, other} {
			all[0].write(t, RecordType, a, &assetv1.AssetRecord{State: assetv1.AssetRecord_STATE_UPLOADING}, false)
		}
		meetAll(t, all)
		wholeUser := rapid.Bool().Draw(t, "the user")
		deleter := rapid.IntRange(0, 2).Draw(t, "deleted at")
		if wholeUser {
			all[deleter].remove(t, ShelfType, user)
		} else {
			all[deleter].remove(t, RecordType, asset)
		}
		for range rapid.IntRange(0, 10).Draw(t, "steps") {
			p := all[rapid.IntRange(0, 2).Draw(t, "at")]
			p.now = p.now.Add(time.Hour)
			switch rapid.SampledFrom([]string{"upload", "rename", "meet"}).Draw(t, "do") {
			case "upload":
				p.change(t, asset, func(rec *assetv1.AssetRecord) {
					if err := Complete(rec, contentOf(1), p.now); err != nil {
						t.Fatal(err)
					}
				})
			case "rename":
				p.change(t, asset, func(rec *assetv1.AssetRecord) { rec.Name += "x" })
			case "meet":
				meetSome(t, all)
			}
		}
		meetAll(t, all)
		for i, p := range all {
			if _, there := read[*assetv1.AssetRecord](t, p, RecordType, asset); there {
				t.Fatalf("the asset is still in place %d", i)
			}
			if _, there := read[*assetv1.AssetRecord](t, p, RecordType, other); there == wholeUser {
				t.Fatalf("the user's other asset in place %d: %t", i, there)
			}
		}
	})
}

// TestAPriceKeepsItsCurrency: of prices that were set at the same time one stays, whole.
func TestAPriceKeepsItsCurrency(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		user, asset := someID(t, 0), someID(t, 1)
		all := places(t, user, 3)
		set := []string{Price{100, "EUR"}.String()}
		all[0].write(t, RecordType, asset, &assetv1.AssetRecord{Price: set[0]}, false)
		meetAll(t, all)
		for range rapid.IntRange(1, 10).Draw(t, "changes") {
			price := Price{rapid.SampledFrom([]int64{1, 100, 999}).Draw(t, "minor"), rapid.SampledFrom([]string{"EUR", "USD", "JPY"}).Draw(t, "currency")}
			set = append(set, price.String())
			all[rapid.IntRange(0, 2).Draw(t, "at")].change(t, asset, func(rec *assetv1.AssetRecord) { rec.Price = price.String() })
			meetSome(t, all)
		}
		meetAll(t, all)
		rec, _ := read[*assetv1.AssetRecord](t, all[0], RecordType, asset)
		if !slices.Contains(set, rec.GetPrice()) {
			t.Fatalf("it costs %s, which nobody set: %v", rec.GetPrice(), set)
		}
	})
}

func TestWhatCannotBeRead(t *testing.T) {
	ready := func(change func(rec *assetv1.AssetRecord)) *assetv1.AssetRecord {
		rec := &assetv1.AssetRecord{}
		if err := Complete(rec, contentOf(1), start); err != nil {
			t.Fatal(err)
		}
		change(rec)
		return rec
	}
	of := hex.EncodeToString(contentOf(1).GetSha256())
	noise := []byte{0xff}
	for name, rec := range map[string]*assetv1.AssetRecord{
		"content": ready(func(rec *assetv1.AssetRecord) { rec.Content = noise }),
		"picture": ready(func(rec *assetv1.AssetRecord) { rec.Pictures = map[string][]byte{of: noise} }),
		"variant": ready(func(rec *assetv1.AssetRecord) { rec.Variants = map[string][]byte{"thumb " + of: noise} }),
	} {
		_, err1 := Picture(rec)
		_, err2 := Variants(rec)
		_, err3 := Blobs(rec)
		if errors.Join(err1, err2, err3) == nil {
			t.Errorf("%s that is noise is read", name)
		}
	}
	for name, rec := range map[string]*assetv1.AssetRecord{
		"nothing": {}, "content of one that is not ready": {Content: noise, State: assetv1.AssetRecord_STATE_UPLOADING},
		"names that a newer binary wrote": ready(func(rec *assetv1.AssetRecord) {
			rec.Variants = map[string][]byte{"tiny": nil, "of " + of + " and more": nil}
		}),
	} {
		c, err1 := Content(rec)
		p, err2 := Picture(rec)
		v, err3 := Variants(rec)
		if err := errors.Join(err1, err2, err3); err != nil || p != nil || len(v) != 0 || (c != nil) != (rec.GetState() == assetv1.AssetRecord_STATE_READY) {
			t.Errorf("%s: %v, %v, %v, %v", name, c, p, slices.Collect(maps.Keys(v)), err)
		}
	}
}
