// Package asset has the rules of assets: what an asset consists of, who sees it, what a purchase is, and what a user's assets may take up. What that means for one copy of a record is pure; a Service reads and writes a region's copies by it.
//
// It owns records of the types "asset" (assetv1.AssetRecord), "ledger" (assetv1.LedgerRecord), one for each purchase, among the buyer's records, and "shelf" (assetv1.ShelfRecord), of which each user has one, whose id is the user's
// own. It guarantees, whatever regions could not see of each other:
//
//   - an asset has one content, once and for all, and what workers made of it belongs to that content;
//   - a price never stands beside another one's currency;
//   - a purchase that is repeated with its idempotency key, in whichever regions, is one entry of the ledger.
//
// Not covered: two different purchases with one key, in regions that cannot see each other, are each acknowledged; one stays, and the other is a conflict that people see. Usage may exceed a quota, see Admit, and
// is not exact, see Correct.
package asset

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	recordv1 "antipode.example/api/gen/antipode/record/v1"
	"antipode.example/platform/blob"
	"antipode.example/platform/fault"
	"antipode.example/platform/record"
)

// ServiceName names the service in events, tokens, topics and logs.
const ServiceName = "asset"

// The types of records.
const (
	RecordType = "asset"
	LedgerType = "ledger"
	ShelfType  = "shelf"
)

// NewRegistry knows the service's record types.
func NewRegistry() (*record.Registry, error) {
	return record.NewRegistry(&assetv1.AssetRecord{}, &assetv1.LedgerRecord{}, &assetv1.ShelfRecord{})
}

// Content is the content of an asset; nil while there is none.
func Content(rec *assetv1.AssetRecord) (*assetv1.AssetRecord_Content, error) {
	if rec.GetState() != assetv1.AssetRecord_STATE_READY {
		return nil, nil
	}
	c := &assetv1.AssetRecord_Content{}
	if err := proto.Unmarshal(rec.GetContent(), c); err != nil {
		return nil, fmt.Errorf("decode the content of an asset: %w", err)
	}
	return c, nil
}

// Complete gives an asset its content. The same content again changes nothing. Errors: already_exists, when it has other content.
func Complete(rec *assetv1.AssetRecord, c *assetv1.AssetRecord_Content, now time.Time) error {
	b, err := encode(c)
	switch {
	case err != nil:
		return err
	case rec.GetState() != assetv1.AssetRecord_STATE_READY:
		rec.State, rec.Content, rec.UpdateTime = assetv1.AssetRecord_STATE_READY, b, record.Later(rec.GetUpdateTime(), now)
	case !bytes.Equal(rec.GetContent(), b):
		return hasContent()
	}
	return nil
}

func hasContent() *fault.Error {
	return fault.New(fault.AlreadyExists, "the asset has its content, which never changes: create another asset")
}

// Picture is what is known of an asset's content as an image; nil while nothing is.
func Picture(rec *assetv1.AssetRecord) (*assetv1.AssetRecord_Picture, error) {
	c, err := Content(rec)
	b := rec.GetPictures()[hex.EncodeToString(c.GetSha256())]
	if err != nil || b == nil {
		return nil, err
	}
	p := &assetv1.AssetRecord_Picture{}
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("decode what is known of an image: %w", err)
	}
	return p, nil
}

// Variants are an asset's variants, by name: those that were made from its content.
func Variants(rec *assetv1.AssetRecord) (map[string]*assetv1.AssetRecord_Variant, error) {
	c, err := Content(rec)
	if err != nil || c == nil {
		return nil, err
	}
	all := map[string]*assetv1.AssetRecord_Variant{}
	for key, b := range rec.GetVariants() {
		name, source, _ := strings.Cut(key, " ")
		if source != hex.EncodeToString(c.GetSha256()) {
			continue
		}
		v := &assetv1.AssetRecord_Variant{}
		if err := proto.Unmarshal(b, v); err != nil {
			return nil, fmt.Errorf("decode variant %q: %w", name, err)
		}
		all[name] = v
	}
	return all, nil
}

// Develop notes what a worker found out about content with this hash, and made of it. It may be done again, and, if the asset turns out to have other content, does no harm.
func Develop(rec *assetv1.AssetRecord, source []byte, p *assetv1.AssetRecord_Picture, variants map[string]*assetv1.AssetRecord_Variant) error {
	of := hex.EncodeToString(source)
	b, err := encode(p)
	if err != nil {
		return err
	}
	if rec.Pictures == nil {
		rec.Pictures = map[string][]byte{}
	}
	rec.Pictures[of] = b
	if rec.Variants == nil {
		rec.Variants = map[string][]byte{}
	}
	for name, v := range variants {
		if rec.Variants[name+" "+of], err = encode(v); err != nil {
			return err
		}
	}
	return nil
}

// Blobs are all contents that a record names, each once, in order: those that must be kept.
func Blobs(rec *assetv1.AssetRecord) ([]blob.Ref, error) {
	c, err := Content(rec)
	if err != nil {
		return nil, err
	}
	var all []*assetv1.AssetRecord_Content
	if c != nil {
		all = append(all, c)
	}
	for key, b := range rec.GetVariants() {
		v := &assetv1.AssetRecord_Variant{}
		if err := proto.Unmarshal(b, v); err != nil {
			return nil, fmt.Errorf("decode variant %q: %w", key, err)
		}
		all = append(all, v.GetContent())
	}
	return refs(all)
}

// BlobsInConflict are the contents that a conflict names: whoever looks into it wants to see what has lost.
func BlobsInConflict(c *recordv1.Conflict) ([]blob.Ref, error) {
	if c.GetType() != RecordType || c.GetDigest() {
		return nil, nil
	}
	var all []*assetv1.AssetRecord_Content
	for _, value := range [][]byte{c.GetValue(), c.GetWonValue()} {
		field, content := &assetv1.AssetRecord{}, &assetv1.AssetRecord_Content{}
		if err := proto.Unmarshal(value, field); err != nil {
			return nil, fmt.Errorf("decode the value of a conflict: %w", err)
		}
		if len(field.GetContent()) == 0 {
			continue
		}
		if err := proto.Unmarshal(field.GetContent(), content); err != nil {
			return nil, fmt.Errorf("decode the content in a conflict: %w", err)
		}
		all = append(all, content)
	}
	return refs(all)
}

func refs(all []*assetv1.AssetRecord_Content) ([]blob.Ref, error) {
	list := make([]blob.Ref, len(all))
	for i, c := range all {
		var err error
		if list[i], err = blob.RefOf(c.GetSha256(), c.GetSize()); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b blob.Ref) int { return bytes.Compare(a.SHA256[:], b.SHA256[:]) })
	return slices.Compact(list), nil
}

// encode is the one encoding of a message, so that equal ones are equal bytes.
func encode(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a part of an asset: %w", err)
	}
	return b, nil
}
