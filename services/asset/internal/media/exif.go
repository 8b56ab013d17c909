package media

import (
	"encoding/binary"
	"strings"
	"time"
)

// orientation is how stored pixels become an upright image, as Exif counts them: 1 to 8, 1 for upright ones.
type orientation int

// turned reports whether stored rows are columns of the upright image.
func (o orientation) turned() bool { return o >= 5 }

// Tags of Exif (CIPA DC-008) that are read. No other one is, above all not where the place is.
const (
	tagOrientation = 0x0112
	tagExif        = 0x8769
	tagTaken       = 0x9003
	tagTakenOffset = 0x9011
)

// Types of values.
const (
	exifText  = 2
	exifShort = 3
	exifLong  = 4
)

// readEXIF reads from Exif data (without "Exif\0\0" in front) how the image is turned and when it was taken. What cannot be read counts as absent: pixels can be shown without it.
//
// A library for all of Exif would be ten times the size of what is needed, in the place where hostile bytes arrive first.
func readEXIF(data []byte) (orientation, string) {
	e := tiff{data: data}
	switch {
	case strings.HasPrefix(string(data), "II*\x00"):
		e.order = binary.LittleEndian
	case strings.HasPrefix(string(data), "MM\x00*"):
		e.order = binary.BigEndian
	default:
		return 1, ""
	}
	main := e.directory(e.long(4))
	upright := orientation(1)
	if o := e.number(main[tagOrientation]); o >= 1 && o <= 8 {
		upright = orientation(o)
	}
	camera := e.directory(e.number(main[tagExif]))
	return upright, captureTime(e.text(camera[tagTaken]), e.text(camera[tagTakenOffset]))
}

// captureTime writes a time as ISO 8601 does; it is empty when there is none.
func captureTime(taken, offset string) string {
	t, err := time.Parse("2006:01:02 15:04:05", taken)
	if err != nil || t.Year() < 1 {
		return ""
	}
	text := t.Format("2006-01-02T15:04:05")
	if _, err := time.Parse("-07:00", offset); err == nil {
		text += offset
	}
	return text
}

// tiff reads data in the form of TIFF 6.0. What lies outside of the data is zero.
type tiff struct {
	data  []byte
	order binary.ByteOrder
}

// bytes are n bytes, at most 32.
func (e tiff) bytes(offset, n uint64) []byte {
	if end := uint64(len(e.data)); n > end || offset > end-n {
		return make([]byte, n)
	}
	return e.data[offset : offset+n]
}

func (e tiff) short(offset uint64) uint16 { return e.order.Uint16(e.bytes(offset, 2)) }

func (e tiff) long(offset uint64) uint64 { return uint64(e.order.Uint32(e.bytes(offset, 4))) }

// entry of a directory: values of a type, and how many. at is where they are, if they fit into four bytes, and else where it says where they are.
type entry struct {
	kind  uint16
	count uint64
	at    uint64
}

// directory reads the entries of a directory by tag; of entries with one tag the first counts. There is none at 0, where the header is.
func (e tiff) directory(offset uint64) map[uint16]entry {
	entries := map[uint16]entry{}
	if offset == 0 {
		return entries
	}
	for i := range uint64(e.short(offset)) {
		at := offset + 2 + 12*i
		if at+12 > uint64(len(e.data)) {
			break
		}
		tag := e.short(at)
		if _, there := entries[tag]; !there {
			entries[tag] = entry{kind: e.short(at + 2), count: e.long(at + 4), at: at + 8}
		}
	}
	return entries
}

// number is the value of an entry that has exactly one, of either type; else 0.
func (e tiff) number(v entry) uint64 {
	switch {
	case v.count != 1:
		return 0
	case v.kind == exifShort:
		return uint64(e.short(v.at))
	case v.kind == exifLong:
		return e.long(v.at)
	default:
		return 0
	}
}

// text is the value of an entry that is a text of 5 to 32 bytes, without the zero at its end; else it is empty.
func (e tiff) text(v entry) string {
	if v.kind != exifText || v.count < 5 || v.count > 32 {
		return ""
	}
	return strings.TrimRight(string(e.bytes(e.long(v.at), v.count)), "\x00")
}
