package media

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"slices"
	"testing"

	"antipode.example/platform/fault"
)

// pattern is an image in which every corner and every edge differs; translucent, if it is to be.
func pattern(w, h int, translucent bool) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.NRGBA{uint8(x * 255 / w), uint8(y * 255 / h), uint8((x/16 + y/16) % 2 * 200), 255}
			if translucent && x > w/2 {
				c.A = uint8(y * 255 / h)
			}
			m.SetNRGBA(x, y, c)
		}
	}
	return m
}

func encoded(t testing.TB, encode func(io.Writer) error) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func asPNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	return encoded(t, func(w io.Writer) error { return png.Encode(w, m) })
}

// asJPEG has segments between the beginning and what the encoder writes.
func asJPEG(t testing.TB, m image.Image, segments ...[]byte) []byte {
	t.Helper()
	b := encoded(t, func(w io.Writer) error { return jpeg.Encode(w, m, &jpeg.Options{Quality: 95}) })
	return slices.Concat(b[:2], slices.Concat(segments...), b[2:])
}

// asGIF has the image as its first frame, and then more frames of one pixel.
func asGIF(t testing.TB, m image.Image, more int) []byte {
	t.Helper()
	palette := color.Palette{color.Transparent}
	for i := range 64 {
		palette = append(palette, color.RGBA{uint8(i % 4 * 85), uint8(i / 4 % 4 * 85), uint8(i / 16 * 85), 255})
	}
	first := image.NewPaletted(m.Bounds(), palette)
	for y := range m.Bounds().Dy() {
		for x := range m.Bounds().Dx() {
			first.Set(x, y, m.At(x, y))
		}
	}
	g := &gif.GIF{Image: []*image.Paletted{first}, Delay: make([]int, more+1)}
	for range more {
		g.Image = append(g.Image, image.NewPaletted(image.Rect(0, 0, 1, 1), palette))
	}
	return encoded(t, func(w io.Writer) error { return gif.EncodeAll(w, g) })
}

// segment of JPEG.
func segment(marker byte, content ...byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0xff, marker}, uint16(len(content)+2)), content...)
}

// sof is a header of a frame: components with their sampling factors (0x22).
func sof(marker byte, w, h int, sampling ...byte) []byte {
	b := []byte{8, byte(h >> 8), byte(h), byte(w >> 8), byte(w), byte(len(sampling))}
	for i, s := range sampling {
		b = append(b, byte(i+1), s, 0)
	}
	return segment(marker, b...)
}

// progressive is a grey JPEG of the progressive kind, with a scan of its means and then scans that add nothing, each of which goes through all of it.
func progressive(w, h, scans int, sampling ...byte) []byte {
	b := slices.Concat([]byte{0xff, jpegEOI - 1}, segment(0xdb, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...), sof(jpegSOF2, w, h, sampling...))
	code := func(class, value byte) []byte {
		return segment(0xc4, slices.Concat([]byte{class, 1}, make([]byte, 15), []byte{value})...)
	}
	b = slices.Concat(b, code(0x00, 0), code(0x10, 0xe0)) // of one bit: for "no difference", and for "nothing in the next 2^14 blocks"
	selectors := []byte{byte(len(sampling))}
	blocks := 0
	across, down := int(sampling[0]>>4), int(sampling[0]&15)
	for i, s := range sampling {
		selectors = append(selectors, byte(i+1), 0)
		blocks += (w + 8*across - 1) / (8 * across) * ((h + 8*down - 1) / (8 * down)) * int(s>>4) * int(s&15)
	}
	b = slices.Concat(b, segment(jpegSOS, append(selectors, 0, 0, 0)...), make([]byte, blocks/8+1))
	for range scans {
		b = append(b, emptyScan(w, h)...)
	}
	return append(b, 0xff, jpegEOI)
}

// emptyScan adds nothing to the first component.
func emptyScan(w, h int) []byte {
	runs := (w+7)/8*((h+7)/8)/(1<<14) + 1
	return append(segment(jpegSOS, 1, 1, 0, 1, 63, 0), make([]byte, (15*runs+7)/8)...)
}

// chunk of PNG.
func chunk(name string, content ...byte) []byte {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(content))), name...)
	b = append(b, content...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

const pngSignature = "\x89PNG\r\n\x1a\n"

// ihdr is the beginning of a PNG of this size.
func ihdr(w, h uint32, depth, kind byte) []byte {
	b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, w), h)
	return append([]byte(pngSignature), chunk("IHDR", append(b, depth, kind, 0, 0, 0)...)...)
}

// riffChunk is a chunk of WebP.
func riffChunk(name string, content ...byte) []byte {
	b := append(binary.LittleEndian.AppendUint32([]byte(name), uint32(len(content))), content...)
	if len(content)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

func asWebP(chunks ...[]byte) []byte {
	return riffChunk("RIFF", append([]byte("WEBP"), slices.Concat(chunks...)...)...)
}

// vp8x is the header of an extended WebP.
func vp8x(flags byte, w, h int) []byte {
	return riffChunk("VP8X", flags, 0, 0, 0, byte(w-1), byte((w-1)>>8), byte((w-1)>>16), byte(h-1), byte((h-1)>>8), byte((h-1)>>16))
}

// bits writes the least significant bits first.
type bits struct {
	b []byte
	n int
}

func (b *bits) put(v, n int) {
	for ; n > 0; n-- {
		if b.n%8 == 0 {
			b.b = append(b.b, 0)
		}
		b.b[b.n/8] |= byte(v & 1 << (b.n % 8))
		b.n, v = b.n+1, v>>1
	}
}

// vp8l is a lossless WebP in two colours, of one bit a pixel; of one colour, and no bits, if green is nil.
func vp8l(w, h int, green func(x, y int) bool) []byte {
	var b bits
	b.put(0x2f, 8)
	b.put(w-1, 14)
	b.put(h-1, 14)
	b.put(0, 1+3+1+1+1) // no alpha, version, no transform, no cache, no groups
	one := func(value int) { b.put(1, 1); b.put(0, 1); b.put(1, 1); b.put(value, 8) }
	if green == nil {
		one(10)
	} else {
		b.put(1, 1)
		b.put(1, 1)
		b.put(1, 1)
		b.put(10, 8)
		b.put(240, 8)
	}
	for _, v := range []int{60, 90, 255, 0} { // red, blue, alpha, distance
		one(v)
	}
	if green != nil {
		for y := range h {
			for x := range w {
				v := 0
				if green(x, y) {
					v = 1
				}
				b.put(v, 1)
			}
		}
	}
	return riffChunk("VP8L", b.b...)
}

// A lossy WebP of one pixel.
const webp1x1 = "UklGRiQAAABXRUJQVlA4IBgAAAAwAQCdASoBAAEAAwA0JaQAA3AA/vuUAAA="

func lossyWebP(t testing.TB) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(webp1x1)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exif is Exif data with an orientation, a time if there is one, and a place.
func exif(order binary.AppendByteOrder, o uint16, taken, offset string) []byte {
	head := "II*\x00"
	if order == binary.AppendByteOrder(binary.BigEndian) {
		head = "MM\x00*"
	}
	long := func(b []byte, v int) []byte { return order.AppendUint32(b, uint32(v)) }
	b := long([]byte(head), 8)
	value := func(tag, kind uint16, n, v int) {
		b = long(long(order.AppendUint16(order.AppendUint16(b, tag), kind), n), v)
	}
	b = order.AppendUint16(b, 3)
	short := int(o)
	if head[0] == 'M' {
		short <<= 16
	}
	value(tagOrientation, exifShort, 1, short)
	const camera, place = 8 + 2 + 3*12 + 4, 8 + 2 + 3*12 + 4 + 2 + 2*12 + 4 + 20 + 7
	value(tagExif, exifLong, 1, camera)
	value(0x8825, exifLong, 1, place)
	b = long(b, 0)
	b = order.AppendUint16(b, 2)
	texts := camera + 2 + 2*12 + 4
	value(tagTaken, exifText, len(taken)+1, texts)
	value(tagTakenOffset, exifText, len(offset)+1, texts+len(taken)+1)
	b = append(long(b, 0), taken+"\x00"+offset+"\x00"...)
	b = append(b, make([]byte, max(0, place-len(b)))...)
	b = order.AppendUint16(b, 1)
	value(1, exifText, 2, int(order.AppendUint32(nil, 0)[0])) // GPSLatitudeRef
	return append(long(b, 0), "GPS 52 30 57.6 N"...)
}

func exifSegment(o uint16) []byte {
	return segment(jpegAPP1, append([]byte("Exif\x00\x00"), exif(binary.BigEndian, o, "2026:01:02 03:04:05", "+01:00")...)...)
}

// samples are good images of all kinds.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	checks := func(x, y int) bool { return (x/16+y/16)%2 == 0 }
	return map[string][]byte{
		"jpeg":              asJPEG(t, pattern(700, 500, false), exifSegment(6)),
		"grey jpeg":         asJPEG(t, image.NewGray(image.Rect(0, 0, 30, 40))),
		"progressive jpeg":  progressive(300, 200, 2, 0x22, 0x11, 0x11),
		"png":               asPNG(t, pattern(700, 500, false)),
		"translucent png":   asPNG(t, pattern(300, 400, true)),
		"16-bit png":        asPNG(t, image.NewNRGBA64(image.Rect(0, 0, 50, 20))),
		"gif":               asGIF(t, pattern(300, 200, false), 3),
		"lossless webp":     asWebP(vp8l(700, 500, checks)),
		"turned webp":       asWebP(vp8x(0x08, 40, 20), vp8l(40, 20, checks), riffChunk("EXIF", exif(binary.LittleEndian, 8, "2026:01:02 03:04:05", "")...)),
		"lossy webp":        lossyWebP(t),
		"png of many lines": asPNG(t, pattern(20, 1900, false)),
	}
}

func kindOf(err error) fault.Kind {
	if err == nil {
		return ""
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		return "not a fault"
	}
	return f.Kind
}

func newMaker(t testing.TB) *Maker {
	t.Helper()
	m, err := NewMaker(MinMemory)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func variants(t testing.TB, b []byte) []Variant {
	t.Helper()
	all, err := newMaker(t).Variants(context.WithoutCancel(t.Context()), bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return all
}
