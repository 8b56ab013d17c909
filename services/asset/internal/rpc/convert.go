package rpc

import (
	"cmp"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/copies"
	"antipode.example/platform/resource"
	"antipode.example/services/asset"
)

// recordOf is the part of a record that callers choose.
func recordOf(m *assetv1.Asset) *assetv1.AssetRecord {
	rec := &assetv1.AssetRecord{Name: m.GetName(), Description: m.GetDescription(), Visibility: assetv1.AssetRecord_VISIBILITY_PRIVATE}
	if m.GetVisibility() == assetv1.Asset_VISIBILITY_PUBLIC {
		rec.Visibility = assetv1.AssetRecord_VISIBILITY_PUBLIC
	}
	if p := m.GetPrice(); p != nil {
		rec.Price = asset.Price{Minor: p.GetMinor(), Currency: p.GetCurrency()}.String()
	}
	return rec
}

const priceField = "price"

// change is what an update asks for. A price is one leaf of the record, and so is changed as a whole, by whatever part of it was named.
func change(mask *fieldmaskpb.FieldMask, m *assetv1.Asset) (asset.Change, error) {
	may := resource.Mask{
		A: anAsset, Message: &assetv1.Asset{}, Changeable: []string{"name", "description", "visibility", priceField}, Naming: []string{ownerField},
	}
	paths, err := may.Paths(mask, m)
	if err != nil {
		return asset.Change{}, err
	}
	for i, path := range paths {
		if strings.HasPrefix(path, priceField+".") {
			paths[i] = priceField
		}
	}
	return asset.Change{Etag: m.GetEtag(), Patch: recordOf(m), Paths: slices.Compact(paths)}, nil
}

// message is a copy as a viewer sees it.
func message(c asset.Copy, v asset.Viewer) (*assetv1.Asset, error) {
	rec := c.Record
	m := &assetv1.Asset{
		Id: c.ID.String(), OwnerId: c.User.String(), Name: rec.GetName(), Description: rec.GetDescription(), Visibility: assetv1.Asset_Visibility(rec.GetVisibility()),
		State: assetv1.Asset_State(rec.GetState()), OriginRegion: rec.GetOriginRegion(), CreateTime: rec.GetCreateTime(), UpdateTime: rec.GetUpdateTime(), Etag: c.Etag,
	}
	price, forSale, err := asset.ParsePrice(rec.GetPrice())
	if err != nil {
		return nil, err
	}
	if forSale {
		m.Price = &assetv1.Price{Minor: price.Minor, Currency: price.Currency}
	}
	content, err := asset.Content(rec)
	if err != nil || content == nil {
		return m, err
	}
	return m, describe(m, c, content, v)
}

// describe adds what is known of an asset's content.
func describe(m *assetv1.Asset, c asset.Copy, content *assetv1.AssetRecord_Content, v asset.Viewer) error {
	m.Sha256, m.Size, m.ContentType = hex.EncodeToString(content.GetSha256()), content.GetSize(), content.GetContentType()
	picture, err := asset.Picture(c.Record)
	if err != nil {
		return err
	}
	m.Width, m.Height, m.VariantsRefusal = picture.GetWidth(), picture.GetHeight(), picture.GetRefusal()
	if v.Admin || v.User == c.User {
		m.CaptureTime = picture.GetCaptureTime()
	}
	if m.Variants, err = variants(c); err != nil {
		return err
	}
	if asset.Public(c.Record) {
		m.PublicPath = asset.PublicPath(c.Ref, m.GetName(), content)
	}
	return nil
}

// variants are an asset's, the smallest first.
func variants(c asset.Copy) ([]*assetv1.Variant, error) {
	all, err := asset.Variants(c.Record)
	if err != nil {
		return nil, err
	}
	var list []*assetv1.Variant
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, variant(c.Ref, c.Record, name, all[name]))
	}
	slices.SortStableFunc(list, func(a, b *assetv1.Variant) int {
		return cmp.Compare(max(a.GetWidth(), a.GetHeight()), max(b.GetWidth(), b.GetHeight()))
	})
	return list, nil
}

func variant(ref copies.Ref, rec *assetv1.AssetRecord, name string, v *assetv1.AssetRecord_Variant) *assetv1.Variant {
	m := &assetv1.Variant{Name: name, ContentType: v.GetContent().GetContentType(), Width: v.GetWidth(), Height: v.GetHeight(), Size: v.GetContent().GetSize()}
	if asset.Public(rec) {
		m.PublicPath = asset.PublicPath(ref, rec.GetName(), v.GetContent())
	}
	return m
}
