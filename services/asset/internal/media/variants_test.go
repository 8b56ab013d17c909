package media

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"antipode.example/platform/fault"
)

// TestGolden: the same bytes in, the same bytes out, from one machine and release to the next. A release of Go that encodes otherwise changes what is here; nothing else may.
func TestGolden(t *testing.T) {
	want := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(golden), "\n") {
		name, variants, _ := strings.Cut(line, ": ")
		want[name] = variants
	}
	for name, b := range samples(t) {
		var got []string
		for _, v := range variants(t, b) {
			got = append(got, fmt.Sprintf("%s %s %dx%d %s", v.Name, v.Type, v.Width, v.Height, hex.EncodeToString(v.SHA256[:6])))
		}
		if got := strings.Join(got, ", "); got != want[name] {
			t.Errorf("%s: %s\nwant %s", name, got, want[name])
		}
	}
}

const golden = `
16-bit png: large image/png 50x20 07e9c3dde7cb, small image/png 50x20 07e9c3dde7cb, thumb image/png 50x20 07e9c3dde7cb
gif: large image/jpeg 300x200 82c8b7432152, small image/jpeg 300x200 82c8b7432152, thumb image/jpeg 256x171 d2f7528e6b8e
grey jpeg: large image/jpeg 30x40 5a5f20a06620, small image/jpeg 30x40 5a5f20a06620, thumb image/jpeg 30x40 5a5f20a06620
jpeg: large image/jpeg 500x700 5ddddc57f3be, small image/jpeg 457x640 522201dfdea5, thumb image/jpeg 183x256 f3acc4fb426f
lossless webp: large image/jpeg 700x500 662b728e3ef5, small image/jpeg 640x457 f3afd3bd7767, thumb image/jpeg 256x183 a98a0504c377
lossy webp: large image/jpeg 1x1 459fb8f278a3, small image/jpeg 1x1 459fb8f278a3, thumb image/jpeg 1x1 459fb8f278a3
png of many lines: large image/jpeg 17x1600 3ac2f0125edb, small image/jpeg 7x640 da045fa0144f, thumb image/jpeg 3x256 205912a0ed9d
png: large image/jpeg 700x500 d9cc6c1b04d5, small image/jpeg 640x457 2db802ce0612, thumb image/jpeg 256x183 1c4c45207032
progressive jpeg: large image/jpeg 300x200 c74f24ee732b, small image/jpeg 300x200 c74f24ee732b, thumb image/jpeg 256x171 68cfa7f5735f
translucent png: large image/png 300x400 9acf78b8910b, small image/png 300x400 9acf78b8910b, thumb image/png 192x256 85c12a27f94f
turned webp: large image/jpeg 20x40 d14e9b9a416d, small image/jpeg 20x40 d14e9b9a416d, thumb image/jpeg 20x40 d14e9b9a416d
`

func TestVariantsAreWhatTheySay(t *testing.T) {
	for name, b := range samples(t) {
		info, err := Inspect(t.Context(), bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i, v := range variants(t, b) {
			size := Sizes()[i]
			again, err := Inspect(t.Context(), bytes.NewReader(v.Bytes))
			if err != nil || again.Type != v.Type || again.Width != v.Width || again.Height != v.Height || v.Name != size.Name {
				t.Errorf("%s: %s %s %dx%d is %+v, %v", name, v.Name, v.Type, v.Width, v.Height, again, err)
			}
			if long := max(v.Width, v.Height); long != min(size.Side, max(info.Width, info.Height)) {
				t.Errorf("%s: %s is %d pixels long", name, v.Name, long)
			}
			if (v.Width > v.Height) != (info.Width > info.Height) && v.Width != v.Height {
				t.Errorf("%s: %s lies on its side", name, v.Name)
			}
			if opaque := !strings.Contains(name, "translucent") && name != "16-bit png"; (v.Type == JPEG) != opaque {
				t.Errorf("%s: %s is a %s", name, v.Name, v.Type)
			}
		}
	}
}

// TestNothingButPixels: what people don't know that their pictures hold is not passed on.
func TestNothingButPixels(t *testing.T) {
	secret := []byte("SECRET GPS 52 30 57.6 N")
	dirty := asJPEG(t, pattern(100, 80, false), exifSegment(1), segment(0xfe, secret...), segment(0xe2, append([]byte("ICC_PROFILE\x00\x01\x01"), secret...)...),
		segment(jpegAPP1, append([]byte("http://ns.adobe.com/xap/1.0/\x00"), secret...)...))
	withText := asPNG(t, pattern(100, 80, true))
	withText = append(withText[:33:33], append(chunk("tEXt", secret...), withText[33:]...)...)
	for _, b := range [][]byte{dirty, withText} {
		for _, v := range variants(t, b) {
			if bytes.Contains(v.Bytes, []byte("GPS")) || bytes.Contains(v.Bytes, []byte("Exif")) || bytes.Contains(v.Bytes, []byte("SECRET")) {
				t.Errorf("%s of a %s has metadata", v.Name, v.Type)
			}
			for _, part := range parts(t, v) {
				switch part {
				case "IHDR", "IDAT", "IEND", "db", "c0", "c4", "da":
				default:
					t.Errorf("%s of a %s has a part %s", v.Name, v.Type, part)
				}
			}
		}
	}
}

// parts are the names of a PNG's chunks, or a JPEG's markers.
func parts(t *testing.T, v Variant) []string {
	t.Helper()
	var names []string
	if v.Type == PNG {
		for b := v.Bytes[8:]; len(b) > 0; b = b[12+be32(b):] {
			names = append(names, string(b[4:8]))
		}
		return names
	}
	for b := v.Bytes[2:]; ; b = b[2+int(b[2])<<8+int(b[3]):] {
		names = append(names, hex.EncodeToString(b[1:2]))
		if b[1] == jpegSOS {
			return names
		}
	}
}

func be32(b []byte) int { return int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3]) }

// TestOrientation turns an upright image away in each of the eight ways: the variants must all be the upright image.
func TestOrientation(t *testing.T) {
	upright := pattern(96, 64, false)
	// By the book: where the stored first row and the stored first column are in the upright image.
	stored := map[uint16]func(x, y int) (int, int){
		1: func(x, y int) (int, int) { return x, y },           // top, left
		2: func(x, y int) (int, int) { return 95 - x, y },      // top, right
		3: func(x, y int) (int, int) { return 95 - x, 63 - y }, // bottom, right
		4: func(x, y int) (int, int) { return x, 63 - y },      // bottom, left
		5: func(x, y int) (int, int) { return y, x },           // left, top
		6: func(x, y int) (int, int) { return 95 - y, x },      // right, top
		7: func(x, y int) (int, int) { return 95 - y, 63 - x }, // right, bottom
		8: func(x, y int) (int, int) { return y, 63 - x },      // left, bottom
	}
	for o, from := range stored {
		size := image.Pt(96, 64)
		if o >= 5 {
			size = image.Pt(64, 96)
		}
		turned := image.NewNRGBA(image.Rectangle{Max: size})
		for y := range size.Y {
			for x := range size.X {
				turned.Set(x, y, upright.At(from(x, y)))
			}
		}
		b := asJPEG(t, turned, exifSegment(o))
		if info, err := Inspect(t.Context(), bytes.NewReader(b)); err != nil || info.Width != 96 || info.Height != 64 {
			t.Errorf("orientation %d: %+v, %v", o, info, err)
		}
		got, err := jpeg.Decode(bytes.NewReader(variants(t, b)[0].Bytes))
		if err != nil || got.Bounds() != upright.Bounds() {
			t.Fatalf("orientation %d: %v, %v", o, got.Bounds(), err)
		}
		for _, p := range []image.Point{{4, 4}, {90, 4}, {4, 60}, {90, 60}, {40, 20}} {
			if d := distance(got.At(p.X, p.Y), upright.At(p.X, p.Y)); d > 30 {
				t.Errorf("orientation %d: at %v is %v, want %v", o, p, got.At(p.X, p.Y), upright.At(p.X, p.Y))
			}
		}
	}
}

func distance(a, b color.Color) int {
	r1, g1, b1, _ := a.RGBA()
	r2, g2, b2, _ := b.RGBA()
	d := 0
	for _, v := range [][2]uint32{{r1, r2}, {g1, g2}, {b1, b2}} {
		d = max(d, int(v[0]>>8)-int(v[1]>>8), int(v[1]>>8)-int(v[0]>>8))
	}
	return d
}

// TestShrink: the mean of what a pixel covers, exactly.
func TestShrink(t *testing.T) {
	row := image.NewGray(image.Rect(0, 0, 5, 1))
	copy(row.Pix, []uint8{0, 100, 200, 50, 250})
	got, err := shrink(row, image.Pt(5, 1), image.Pt(2, 1), func() error { return nil })
	if err != nil || got.Pix[0] != (2*0+2*100+1*200+2)/5 || got.Pix[4] != (1*200+2*50+2*250+2)/5 {
		t.Errorf("%v, %v", got.Pix, err)
	}
	// A frame that covers a part of its canvas: the rest is transparent.
	for _, at := range []image.Point{{0, 0}, {2, 0}, {0, 2}, {2, 2}} {
		part := image.NewRGBA(image.Rectangle{Min: at, Max: at.Add(image.Pt(2, 2))})
		for i := range part.Pix {
			part.Pix[i] = 255
		}
		got, err = shrink(part, image.Pt(4, 4), image.Pt(2, 2), func() error { return nil })
		for i := range 4 {
			if p := image.Pt(i%2, i/2); err != nil || (got.RGBAAt(p.X, p.Y).A == 255) != (p == at.Div(2)) {
				t.Errorf("a frame at %v: %v, %v", at, got.Pix, err)
			}
		}
	}
	if _, err := shrink(row, image.Pt(5, 1), image.Pt(2, 1), func() error { return context.Canceled }); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	same, err := shrink(pattern(33, 17, true), image.Pt(33, 17), image.Pt(33, 17), func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for y := range 17 {
		for x := range 33 {
			if want := color.RGBAModel.Convert(pattern(33, 17, true).At(x, y)); same.At(x, y) != want {
				t.Fatalf("at %d, %d of the same size is %v, want %v", x, y, same.At(x, y), want)
			}
		}
	}
}

func TestFit(t *testing.T) {
	for _, tt := range []struct {
		size image.Point
		side int
		want image.Point
	}{
		{image.Pt(100, 50), 256, image.Pt(100, 50)},
		{image.Pt(256, 256), 256, image.Pt(256, 256)},
		{image.Pt(257, 256), 256, image.Pt(256, 255)},
		{image.Pt(4000, 3000), 1600, image.Pt(1600, 1200)},
		{image.Pt(3000, 4000), 256, image.Pt(192, 256)},
		{image.Pt(20000, 200), 256, image.Pt(256, 3)},
		{image.Pt(2000, 1), 256, image.Pt(256, 1)},
	} {
		if got := fit(tt.size, tt.side); got != tt.want {
			t.Errorf("%v into %d is %v, want %v", tt.size, tt.side, got, tt.want)
		}
	}
}

// TestTruncated: half an image is no image.
func TestTruncated(t *testing.T) {
	m := newMaker(t)
	all := samples(t)
	all["jpeg"] = asJPEG(t, pattern(150, 100, false), exifSegment(6))
	all["lossless webp"] = asWebP(vp8l(150, 100, func(x, y int) bool { return (x+y)%3 == 0 }))
	for name, b := range all {
		for n := 0; n < len(b); n += 64 {
			if _, err := m.Variants(t.Context(), bytes.NewReader(b[:n])); kindOf(err) != fault.Invalid {
				t.Errorf("%s, %d of %d bytes: %v", name, n, len(b), err)
			}
		}
		if !m.memory.TryAcquire(MinMemory) {
			t.Fatalf("%s: memory was not given back", name)
		}
		m.memory.Release(MinMemory)
	}
}

// TestMemory: decoding takes what was reserved for it.
func TestMemory(t *testing.T) {
	all := samples(t)
	all["large png"] = asPNG(t, image.NewNRGBA(image.Rect(0, 0, 800, 600)))
	all["large 16-bit png"] = asPNG(t, image.NewNRGBA64(image.Rect(0, 0, 800, 600)))
	all["large jpeg"] = asJPEG(t, image.NewNRGBA(image.Rect(0, 0, 800, 600)))
	all["large progressive jpeg"] = progressive(800, 600, 1, 0x22, 0x11, 0x11)
	all["full progressive jpeg"] = progressive(800, 600, 1, 0x11, 0x11, 0x11)
	all["large gif"] = asGIF(t, image.NewNRGBA(image.Rect(0, 0, 800, 600)), 0)
	all["large webp"] = asWebP(vp8l(800, 600, nil))
	for name, b := range all {
		info, err := Inspect(t.Context(), bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		decoder := decoderOf(info.Type)
		took := allocated(func() {
			if _, err := decoder.image(bytes.NewReader(b)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		if took > info.memory+256<<10 {
			t.Errorf("%s: decoding took %d bytes, %d were reserved", name, took, info.memory)
		}
		if all := allocated(func() { variants(t, b) }); all > info.memory+besides {
			t.Errorf("%s: variants took %d bytes, %d were reserved", name, all, info.memory+besides)
		}
	}
}

// allocated is how many bytes do allocates, with what becomes garbage on the way.
func allocated(do func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// counted is content whose reads are told.
type counted struct {
	*bytes.Reader
	reads  int
	onRead func(n int)
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads++
	c.onRead(c.reads)
	return c.Reader.Read(p)
}

// TestADecoderEndsWithItsContext although most of the work is left in what it has read: an image of 24 megapixels with as many scans as there may be.
func TestADecoderEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	content := &counted{Reader: bytes.NewReader(progressive(6000, 4000, MaxScans-1, 0x22, 0x11, 0x11))}
	content.onRead = func(n int) {
		if n == 5 { // 64 KiB each; the first is inspected three times, and the second once
			cancel()
		}
	}
	if _, err := newMaker(t).Variants(ctx, content); kindOf(err) != fault.Deadline || !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if content.reads != 5 {
		t.Errorf("%d reads", content.reads)
	}
}

func TestVariantsWaitForMemory(t *testing.T) {
	b := asPNG(t, pattern(10, 10, false))
	synctest.Test(t, func(t *testing.T) {
		m := newMaker(t)
		if !m.memory.TryAcquire(MinMemory - besides) { // some other image
			t.Fatal("no memory")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() {
			if _, err := m.Variants(ctx, bytes.NewReader(b)); kindOf(err) != fault.Deadline {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		cancel()
		wait.Wait()
		wait.Go(func() {
			if _, err := m.Variants(t.Context(), bytes.NewReader(b)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		m.memory.Release(MinMemory - besides)
		wait.Wait()
	})
	if _, err := NewMaker(MinMemory - 1); err == nil {
		t.Error("a maker without enough memory for one image")
	}
}

// broken fails with another error than the end, after some bytes.
type broken struct {
	*bytes.Reader
	after int64
}

func (b broken) Read(p []byte) (int, error) {
	if at, err := b.Seek(0, io.SeekCurrent); err != nil || at >= b.after {
		return 0, errors.New("the network is down")
	}
	return b.Reader.Read(p[:min(int64(len(p)), b.after)])
}

// TestAReaderThatFails is not the image's fault.
func TestAReaderThatFails(t *testing.T) {
	b := asPNG(t, pattern(400, 400, true))
	for _, after := range []int64{0, 10, 100, int64(len(b) - 1)} {
		_, err := newMaker(t).Variants(t.Context(), broken{bytes.NewReader(b), after})
		if kindOf(err) != fault.Unavailable {
			t.Errorf("after %d bytes: %v", after, err)
		}
		if f := fault.From(err); strings.Contains(f.Message, "network") {
			t.Errorf("a caller is told %q", f.Message)
		}
	}
}

// TestAPanicOfADecoder is an error.
func TestAPanicOfADecoder(t *testing.T) {
	_, err := guard(func() (image.Image, error) { panic("index out of range") })
	if err == nil || !strings.Contains(err.Error(), "index out of range") {
		t.Error(err)
	}
}

func BenchmarkVariants(b *testing.B) {
	large := pattern(4000, 3000, false)
	for name, content := range map[string][]byte{"jpeg": asJPEG(b, large), "png": asPNG(b, large)} {
		b.Run(name, func(b *testing.B) {
			m := newMaker(b)
			b.SetBytes(4000 * 3000)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.Variants(b.Context(), bytes.NewReader(content)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
