package rpc

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	assetv1 "antipode.example/api/gen/antipode/asset/v1"
	"antipode.example/platform/fault"
)

func TestChanges(t *testing.T) {
	t.Parallel()
	sent := &assetv1.Asset{
		Id: "ignored", OwnerId: "ignored", Name: "a cat.jpg", State: assetv1.Asset_STATE_READY, Sha256: "ignored", Price: &assetv1.Price{Minor: 5, Currency: "EUR"},
		Variants: []*assetv1.Variant{{Name: "ignored"}},
	}
	for mask, want := range map[string]string{
		"":                         "name price", // what is set
		"name":                     "name",
		"description,visibility":   "description visibility",
		"price":                    "price",
		"price.minor":              "price",
		"price.currency,price":     "price",
		"price.minor,name":         "name price",
		"*":                        "description name price visibility",
		"etag,owner_id,name":       "name",
		"ownerId":                  "",
		"etag":                     "",
		"id":                       `!"id" is filled by the server`,
		"state":                    `!"state" is filled by the server`,
		"sha256":                   `!"sha256" is filled by the server`,
		"variants":                 `!"variants" is filled by the server`,
		"publicPath":               `!"publicPath" is filled by the server`,
		"create_time":              `!"create_time" is filled by the server`,
		"price.amount":             `!"price.amount" is not a field of an asset`,
		"variants.name":            `!"variants.name" is not a field of an asset`,
		"upload_region":            `!"upload_region" is not a field of an asset`, // of the record, not of the API
		"request_fingerprint,name": `!"request_fingerprint" is not a field of an asset`,
	} {
		m := &fieldmaskpb.FieldMask{}
		if mask != "" {
			m.Paths = strings.Split(mask, ",")
		}
		got, err := change(m, sent)
		if why, refused := strings.CutPrefix(want, "!"); refused {
			f := fault.From(err)
			if f == nil || f.Kind != fault.Invalid || len(f.Violations) != 1 || f.Violations[0] != (fault.Violation{Field: "update_mask", Description: why}) {
				t.Errorf("%s: got %v, %+v; want it refused: %s", mask, got, err, why)
			}
			continue
		}
		if err != nil || !slices.Equal(got.Paths, strings.Fields(want)) {
			t.Errorf("%s: got %v, %v; want %s", mask, got.Paths, err, want)
		}
	}
}
