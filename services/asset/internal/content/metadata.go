package content

import (
	"encoding/base64"
	"regexp"
	"strings"

	"antipode.example/platform/fault"
	"antipode.example/platform/id"
)

// readMetadata reads Upload-Metadata strictly: asset_id must be there; owner_id may; whatever else a client wants to remember is kept.
func readMetadata(header string) (map[string]string, error) {
	meta := map[string]string{}
	for element := range strings.SplitSeq(header, ",") {
		if strings.TrimSpace(element) == "" {
			continue
		}
		key, encoded, _ := strings.Cut(strings.TrimSpace(element), " ")
		value, err := base64.StdEncoding.DecodeString(encoded)
		if _, twice := meta[key]; err != nil || twice {
			return nil, invalid("Upload-Metadata", "key %q must stand there once, with a value in base64", key)
		}
		meta[key] = string(value)
	}
	bad := fault.New(fault.Invalid, "the request is not valid")
	if _, err := id.Parse(meta["asset_id"]); err != nil {
		bad = bad.With("Upload-Metadata", "asset_id must be the UUID of an asset")
	}
	if owner, there := meta["owner_id"]; there {
		if _, err := id.Parse(owner); err != nil {
			bad = bad.With("Upload-Metadata", "owner_id must be the UUID of a user")
		}
	}
	if len(bad.Violations) > 0 {
		return nil, bad
	}
	return meta, nil
}

// upload names an upload: "<owner>.<asset>.<random>", so that each request for it can be allowed without looking at it.
type upload struct{ owner, asset, random string }

var uploadName = regexp.MustCompile(`^(` + uuid + `)\.(` + uuid + `)\.([A-Z2-7]{26})$`)

const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

func parseUpload(name string) (upload, bool) {
	m := uploadName.FindStringSubmatch(name)
	if m == nil {
		return upload{}, false
	}
	return upload{m[1], m[2], m[3]}, true
}

// String is the name.
func (u upload) String() string { return u.owner + "." + u.asset + "." + u.random }
