package media

import (
	"bytes"
	"encoding/binary"
	"regexp"
	"slices"
	"testing"
	"time"
)

func TestReadEXIF(t *testing.T) {
	le, be := binary.LittleEndian, binary.BigEndian
	good := exif(le, 6, "2026:01:02 03:04:05", "+01:00")
	changed := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	for name, tt := range map[string]struct {
		data   []byte
		upward orientation
		taken  string
	}{
		"little end first":              {good, 6, "2026-01-02T03:04:05+01:00"},
		"big end first":                 {exif(be, 8, "2026:01:02 03:04:05", "-11:30"), 8, "2026-01-02T03:04:05-11:30"},
		"no offset":                     {exif(be, 3, "2026:01:02 03:04:05", ""), 3, "2026-01-02T03:04:05"},
		"an offset that is none":        {exif(be, 3, "2026:01:02 03:04:05", "<html>"), 3, "2026-01-02T03:04:05"},
		"a clock that was never set":    {exif(le, 1, "0000:00:00 00:00:00", "+01:00"), 1, ""},
		"a time that is none":           {exif(le, 1, "2026:13:02 03:04:05", "+01:00"), 1, ""},
		"a text that is too long":       {exif(le, 1, "2026:01:02 03:04:05 or about that time", ""), 1, ""},
		"an orientation that is none":   {exif(le, 9, "2026:01:02 03:04:05", ""), 1, "2026-01-02T03:04:05"},
		"orientation 0":                 {exif(le, 0, "2026:01:02 03:04:05", ""), 1, "2026-01-02T03:04:05"},
		"nothing":                       {nil, 1, ""},
		"only a header":                 {good[:8], 1, ""},
		"neither end first":             {append([]byte("XX*\x00"), good[4:]...), 1, ""},
		"a directory outside":           {changed(func(b []byte) { le.PutUint32(b[4:], 1<<31) }), 1, ""},
		"a directory in the header":     {changed(func(b []byte) { le.PutUint32(b[4:], 0) }), 1, ""},
		"more entries than there is":    {changed(func(b []byte) { le.PutUint16(b[8:], 65535) }), 6, "2026-01-02T03:04:05+01:00"},
		"cut in the first entry":        {good[:16], 1, ""},
		"two orientations":              {changed(func(b []byte) { le.PutUint16(b[22:], tagOrientation) }), 6, ""},
		"an orientation of two numbers": {changed(func(b []byte) { le.PutUint32(b[14:], 2) }), 1, "2026-01-02T03:04:05+01:00"},
		"a camera that points at itself": {changed(func(b []byte) {
			le.PutUint32(b[8+2+12+8:], 8)
		}), 6, ""},
		"a text outside": {changed(func(b []byte) { le.PutUint32(b[8+2+3*12+4+2+8:], 1<<32-1) }), 6, ""},
	} {
		if o, taken := readEXIF(tt.data); o != tt.upward || taken != tt.taken {
			t.Errorf("%s: %d, %q, want %d, %q", name, o, taken, tt.upward, tt.taken)
		}
	}
}

// TestEXIFThatIsCut reads nothing behind its end.
func TestEXIFThatIsCut(t *testing.T) {
	good := exif(binary.LittleEndian, 6, "2026:01:02 03:04:05", "+01:00")
	for n := range good {
		if o, _ := readEXIF(slices.Clip(good[:n])); o != 1 && o != 6 {
			t.Errorf("%d bytes of %d: orientation %d", n, len(good), o)
		}
	}
}

var iso = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d)?$`)

func FuzzOrientation(f *testing.F) {
	f.Add(exif(binary.LittleEndian, 6, "2026:01:02 03:04:05", "+01:00"))
	f.Add(exif(binary.BigEndian, 8, "2026:01:02 03:04:05", ""))
	f.Add([]byte("II*\x00\x08\x00\x00\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, taken := readEXIF(data)
		if o < 1 || o > 8 {
			t.Errorf("orientation %d", o)
		}
		if taken == "" {
			return
		}
		if _, err := time.Parse("2006-01-02T15:04:05", taken[:min(19, len(taken))]); err != nil || !iso.MatchString(taken) {
			t.Errorf("time %q: %v", taken, err)
		}
	})
}
