package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"slices"
	"strings"
	"testing"

	"antipode.example/platform/fault"
)

func TestInspect(t *testing.T) {
	all := samples(t)
	for name, want := range map[string]Info{
		"jpeg":             {Type: JPEG, Width: 500, Height: 700, Frames: 1, CaptureTime: "2026-01-02T03:04:05+01:00"},
		"grey jpeg":        {Type: JPEG, Width: 30, Height: 40, Frames: 1},
		"progressive jpeg": {Type: JPEG, Width: 300, Height: 200, Frames: 1},
		"translucent png":  {Type: PNG, Width: 300, Height: 400, Frames: 1},
		"gif":              {Type: GIF, Width: 300, Height: 200, Frames: 4},
		"lossless webp":    {Type: WebP, Width: 700, Height: 500, Frames: 1},
		"turned webp":      {Type: WebP, Width: 20, Height: 40, Frames: 1, CaptureTime: "2026-01-02T03:04:05"},
		"lossy webp":       {Type: WebP, Width: 1, Height: 1, Frames: 1},
	} {
		got, err := Inspect(t.Context(), bytes.NewReader(all[name]))
		got.stored, got.orientation, got.memory = image.Point{}, 0, 0
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inspect(ctx, bytes.NewReader(all["gif"])); kindOf(err) != fault.Deadline {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// hostile is content that must be refused, and what a caller reads of it. What is undecided without decoding is refused by Variants only.
type hostile struct {
	name    string
	content []byte
	kind    fault.Kind
	says    string
	late    bool
}

const (
	notAnImage = "it is not a JPEG, PNG, GIF or WebP image"
	damaged    = "it is not an image, or damaged"
)

func hostiles(t testing.TB) []hostile {
	t.Helper()
	soi, eoi := []byte{0xff, 0xd8}, []byte{0xff, jpegEOI}
	jpegOf := func(parts ...[]byte) []byte { return slices.Concat(soi, slices.Concat(parts...), eoi) }
	scan := segment(jpegSOS, 1, 1, 0, 0, 63, 0)
	screen := func(w, h int, rest ...byte) []byte {
		return append([]byte("GIF89a"), append([]byte{byte(w), byte(w >> 8), byte(h), byte(h >> 8), 0x80, 0, 0, 0, 0, 0, 255, 255, 255}, rest...)...)
	}
	frame := func(x, y, w, h int, lzw ...byte) []byte {
		b := []byte{','}
		for _, v := range []int{x, y, w, h} {
			b = binary.LittleEndian.AppendUint16(b, uint16(v))
		}
		b = append(b, 0, 2)
		if len(lzw) > 0 {
			b = append(append(b, byte(len(lzw))), lzw...)
		}
		return append(b, 0)
	}
	idat := asPNG(t, image.NewGray(image.Rect(0, 0, 100, 100)))[33:]
	checks := func(x, y int) bool { return x > y }
	return []hostile{
		{"nothing", nil, fault.Invalid, notAnImage, false},
		{"a byte", []byte{0xff}, fault.Invalid, notAnImage, false},
		{"zip", []byte("PK\x03\x04\x14\x00\x00\x00\x08\x00photo.jpg"), fault.Invalid, notAnImage, false},
		{"html", []byte("<!DOCTYPE html><script>alert(1)</script>"), fault.Invalid, notAnImage, false},
		{"svg", []byte(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`), fault.Invalid, notAnImage, false},
		{"xml", []byte(`<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>`), fault.Invalid, notAnImage, false},
		{"pdf", []byte("%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), fault.Invalid, notAnImage, false},
		{"elf", []byte("\x7fELF\x02\x01\x01\x00"), fault.Invalid, notAnImage, false},
		{"bmp", []byte("BM\x46\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00"), fault.Invalid, notAnImage, false},
		{"tiff", []byte("II*\x00\x08\x00\x00\x00"), fault.Invalid, notAnImage, false},
		{"heic", []byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00"), fault.Invalid, notAnImage, false},
		{"sound", []byte("RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00"), fault.Invalid, notAnImage, false},
		{"html with a space before a gif", append([]byte(" "), screen(1, 1, ';')...), fault.Invalid, notAnImage, false},

		{"jpeg that only begins", soi, fault.Invalid, notAnImage, false},
		{"jpeg of a comment", jpegOf(segment(0xfe, []byte("<script>alert(1)</script>")...)), fault.Invalid, damaged, false},
		{"jpeg of fill bytes", append(soi, bytes.Repeat([]byte{0xff}, 1<<20)...), fault.Invalid, damaged, false},
		{"jpeg of comments", append(soi, bytes.Repeat(segment(0xfe, make([]byte, 60_000)...), 200)...), fault.Invalid, damaged, false},
		{"jpeg segment shorter than its length", jpegOf([]byte{0xff, 0xe1, 0, 1}), fault.Invalid, damaged, false},
		{"jpeg bomb", jpegOf(sof(jpegSOF0, 65535, 65535, 0x11), scan, []byte{0}), fault.TooLarge, "65535 × 65535 pixels, at most 20000 at a side", false},
		{"jpeg of many pixels", jpegOf(sof(jpegSOF0, 10001, 5000, 0x11), scan, []byte{0}), fault.TooLarge, "10001 × 5000 pixels, at most 50000000 in all", false},
		{"jpeg without height", jpegOf(sof(jpegSOF0, 100, 0, 0x11), scan), fault.Invalid, "it has no pixels", false},
		{"jpeg ribbon", jpegOf(sof(jpegSOF0, 10100, 100, 0x11), scan), fault.Invalid, "a side is more than 100 times as long as the other", false},
		{"jpeg of large coefficients", jpegOf(sof(jpegSOF2, 7000, 7000, 0x11, 0x11, 0x11), scan), fault.TooLarge, "decoding it takes 735000000 bytes of memory", false},
		{"lossless jpeg", jpegOf(sof(0xc3, 10, 10, 0x11), scan), fault.Invalid, damaged, false},
		{"arithmetic jpeg", jpegOf(sof(0xc9, 10, 10, 0x11), scan), fault.Invalid, damaged, false},
		{"jpeg of two components", jpegOf(sof(jpegSOF0, 10, 10, 0x11, 0x11), scan), fault.Invalid, damaged, false},
		{"jpeg of empty samples", jpegOf(sof(jpegSOF0, 10, 10, 0x00), scan), fault.Invalid, damaged, false},
		{"jpeg of too many scans", progressive(2000, 2000, MaxScans, 0x11), fault.TooLarge, "more than 50 scans", false},
		{"jpeg of two frames", jpegOf(sof(jpegSOF0, 10, 10, 0x11), sof(jpegSOF0, 9999, 5000, 0x11), scan), fault.Invalid, damaged, false},
		{"jfif of two frames", jpegOf(segment(0xe0, []byte("JFIF\x00")...), sof(jpegSOF0, 10, 10, 0x11), sof(jpegSOF0, 9999, 5000, 0x11), scan), fault.Invalid, damaged, true},
		{"jpeg without pixels", jpegOf(sof(jpegSOF0, 7000, 7000, 0x11)), fault.Invalid, damaged, false},
		{"jpeg without tables", jpegOf(sof(jpegSOF0, 7000, 7000, 0x11), scan, make([]byte, 100)), fault.Invalid, damaged, true},

		{"png bomb", ihdr(1_000_000, 1_000_000, 8, 6), fault.TooLarge, "1000000 × 1000000 pixels, at most 20000 at a side", false},
		{"png beyond all sizes", ihdr(1<<31-1, 1<<31-1, 8, 6), fault.Invalid, damaged, false},
		{"png of negative size", ihdr(1<<31, 10, 8, 6), fault.Invalid, damaged, false},
		{"png without width", ihdr(0, 10, 8, 6), fault.Invalid, damaged, false},
		{"png of no kind", ihdr(10, 10, 3, 6), fault.Invalid, damaged, false},
		{"png with a wrong sum", append(ihdr(10, 10, 8, 6)[:29], 0, 0, 0, 0), fault.Invalid, damaged, false},
		{"png of pixels first", slices.Concat([]byte(pngSignature), idat), fault.Invalid, damaged, false},
		{"png without pixels", slices.Concat(ihdr(7000, 7000, 8, 0), chunk("IEND")), fault.Invalid, damaged, true},
		{"png with pixels for another size", slices.Concat(ihdr(7000, 7000, 8, 0), idat), fault.Invalid, damaged, true},
		{"png with too many pixels", slices.Concat(ihdr(10, 10, 8, 0), idat), fault.Invalid, damaged, true},
		{"png with an endless chunk", slices.Concat(ihdr(10, 10, 8, 3), []byte("\x7f\xff\xff\xfftEXt")), fault.Invalid, damaged, false},

		{"script in a gif", []byte(`GIF89a=1;/*` + strings.Repeat(" ", 100) + `*/alert(1)`), fault.TooLarge, "12605 × 12091 pixels, at most 50000000 in all", false},
		{"gif bomb", screen(65535, 65535, ';'), fault.TooLarge, "at most 20000 at a side", false},
		{"gif of many frames", append(screen(1, 1), append(bytes.Repeat(frame(0, 0, 1, 1), 10_000), ';')...), fault.TooLarge, "more than 1000 frames", false},
		{"gif of large frames", append(screen(5000, 5000), append(bytes.Repeat(frame(0, 0, 5000, 5000), 41), ';')...), fault.TooLarge, "its frames have more than 1000000000 pixels in all", false},
		{"gif with a frame outside", append(screen(10, 10), append(frame(5, 5, 6, 5), ';')...), fault.Invalid, damaged, false},
		{"gif without frames", screen(10, 10, ';'), fault.Invalid, damaged, false},
		{"gif of no block", screen(10, 10, 'x'), fault.Invalid, damaged, false},
		{"gif of comments", append(screen(10, 10), bytes.Repeat([]byte("!\xfe\x01x\x00"), 1<<18)...), fault.Invalid, damaged, false},
		{"gif of noise", append(screen(5000, 5000), append(frame(0, 0, 5000, 5000, 0xff, 0xff, 0xff), ';')...), fault.Invalid, damaged, true},

		{"webp bomb", asWebP(vp8x(0, 16_000_000, 100)), fault.TooLarge, "at most 20000 at a side", false},
		{"webp beyond all sizes", asWebP(vp8x(0, 1<<24, 1<<24)), fault.Invalid, damaged, false},
		{"webp of large transforms", asWebP(vp8l(16000, 3000, nil)), fault.TooLarge, "bytes of memory of at most", false},
		{"webp of another size", asWebP(vp8x(0, 10, 10), vp8l(9999, 5000, nil)), fault.Invalid, damaged, true},
		{"webp longer than itself", append([]byte("RIFF\xff\xff\xff\xffWEBPVP8 \xf0\xff\xff\xff"), make([]byte, 100)...), fault.Invalid, damaged, false},
		{"webp of an empty list", []byte("RIFF\x00\x00\x00\x00WEBPVP8 \x00\x00\x00\x00"), fault.Invalid, damaged, false},
		{"webp without its end", asWebP(vp8l(50, 50, checks))[:200], fault.Invalid, damaged, false},
		{"animated webp", asWebP(vp8x(0x02, 10, 10), riffChunk("ANIM", make([]byte, 6)...), riffChunk("ANMF", make([]byte, 16)...)), fault.Invalid, "animated WebP is not supported", false},
		{"webp of a header", asWebP(vp8x(0, 10, 10)), fault.Invalid, damaged, true},
		{"webp of no key frame", asWebP(riffChunk("VP8 ", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)), fault.Invalid, "it has no pixels", false},
		{"webp whose last part is too large", asWebP(riffChunk("VP8 ", append([]byte{0x10, 0xff, 0xff, 0x9d, 0x01, 0x2a, 100, 0, 100, 0}, make([]byte, 50)...)...)), fault.Invalid, damaged, true},
	}
}

// TestHostile: each is refused for what it is, in words that tell nothing of the inside, and with next to no memory.
func TestHostile(t *testing.T) {
	m := newMaker(t)
	for _, h := range hostiles(t) {
		var err, late error
		took := allocated(func() { _, err = Inspect(t.Context(), bytes.NewReader(h.content)) })
		if took > 200<<10 {
			t.Errorf("%s: inspecting took %d bytes", h.name, took)
		}
		if h.late != (err == nil) {
			t.Errorf("%s: Inspect: %v", h.name, err)
		}
		took = allocated(func() { _, late = m.Variants(t.Context(), bytes.NewReader(h.content)) })
		if h.late {
			err = late
		} else if took > 200<<10 {
			t.Errorf("%s: it was refused after %d bytes", h.name, took)
		}
		if took > MinMemory || kindOf(err) != h.kind || kindOf(late) != h.kind {
			t.Errorf("%s: %v, %v after %d bytes", h.name, err, late, took)
			continue
		}
		f := fault.From(err)
		said := f.Message
		for _, v := range f.Violations {
			said += v.Field + " " + v.Description
		}
		if !strings.Contains(said, h.says) || h.kind == fault.Invalid && len(f.Violations) != 1 {
			t.Errorf("%s: it says %q, want %q", h.name, said, h.says)
		}
	}
}

// sized is content of a size that nobody should read.
type sized struct{ *bytes.Reader }

func (s sized) Seek(offset int64, whence int) (int64, error) {
	at, err := s.Reader.Seek(offset, whence)
	if whence == 2 {
		at = MaxBytes + 1
	}
	return at, err
}

func TestContentThatIsTooLong(t *testing.T) {
	if _, err := Inspect(t.Context(), sized{bytes.NewReader(samples(t)["png"])}); kindOf(err) != fault.TooLarge {
		t.Errorf("%v", err)
	}
}

// TestTheWalkTrustsNobody: what the decoder said before it does not matter to it.
func TestTheWalkTrustsNobody(t *testing.T) {
	for name, b := range map[string][]byte{
		"another size": slices.Concat([]byte{0xff, 0xd8}, sof(jpegSOF0, 10, 10, 0x11), segment(jpegSOS)),
		"no size":      slices.Concat([]byte{0xff, 0xd8}, segment(jpegSOS)),
		"no samples":   slices.Concat([]byte{0xff, 0xd8}, sof(jpegSOF0, 9, 9, 0x01), segment(jpegSOS)),
	} {
		s, err := newSource(t.Context(), bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.walk(JPEG, image.Pt(9, 9), color.GrayModel); kindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestThePictureOfABomb: what is within the bounds is shown, however small it is packed.
func TestThePictureOfABomb(t *testing.T) {
	for name, b := range map[string][]byte{"png": asPNG(t, image.NewGray(image.Rect(0, 0, 1200, 1200))), "webp": asWebP(vp8l(1200, 1200, nil))} {
		if len(b) > 5_000 {
			t.Fatalf("the %s has %d bytes", name, len(b))
		}
		if all := variants(t, b); len(all) != 3 || all[2].Width != 256 {
			t.Errorf("%s: %d variants", name, len(all))
		}
	}
}

// FuzzInspect looks into any bytes, and makes small images of what is one.
func FuzzInspect(f *testing.F) {
	for _, b := range samples(f) {
		f.Add(b)
	}
	for _, h := range hostiles(f) {
		if len(h.content) < 10_000 {
			f.Add(h.content)
		}
	}
	m := newMaker(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := Inspect(t.Context(), bytes.NewReader(b))
		if k := kindOf(err); k != "" && k != fault.Invalid && k != fault.TooLarge {
			t.Fatalf("%v", err)
		}
		if err != nil {
			return
		}
		if checkSize(info.stored) != nil || info.memory <= 0 || info.memory > MaxMemory || info.Type != Sniff(b) || info.Frames < 1 {
			t.Fatalf("%+v", info)
		}
		if info.stored.X*info.stored.Y > 1_000_000 { // takes too long
			return
		}
		all, err := m.Variants(t.Context(), bytes.NewReader(b))
		if k := kindOf(err); k != "" && k != fault.Invalid {
			t.Fatalf("%v", err)
		}
		for _, v := range all {
			again, err := Inspect(t.Context(), bytes.NewReader(v.Bytes))
			if err != nil || again.Type != v.Type || again.CaptureTime != "" || again.Width > info.Width || again.Height > info.Height {
				t.Fatalf("%s: %+v, %v", v.Name, again, err)
			}
		}
	})
}
