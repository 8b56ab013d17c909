package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/sync/semaphore"

	"antipode.example/platform/fault"
)

// Size is a size in which images are offered.
type Size struct {
	Name string
	// Side is the longest side, in pixels. An image that is smaller keeps its size.
	Side int
}

// Sizes are those of all variants, the largest first.
func Sizes() []Size { return []Size{{"large", 1600}, {"small", 640}, {"thumb", 256}} }

// quality of JPEG, of 100.
const quality = 82

// Variant is an image in another size.
type Variant struct {
	Name          string
	Type          Type // JPEG, or PNG if any of the image is transparent
	Width, Height int
	SHA256        [sha256.Size]byte
	Bytes         []byte
}

// besides is what making variants takes at most beside decoding, in bytes: the largest variant twice, all of them encoded, and lines.
const besides = 64 << 20

// MinMemory is what a Maker must be given: enough for any one image within the bounds.
const MinMemory = MaxMemory + besides

// Maker makes variants. It is safe for concurrent use.
type Maker struct {
	memory *semaphore.Weighted
}

// NewMaker works on as many images at a time as fit into so many bytes, at least MinMemory. What the garbage collector has not freed yet comes on top.
func NewMaker(memory int64) (*Maker, error) {
	if memory < MinMemory {
		return nil, fmt.Errorf("the memory for images is %d bytes, and must be %d at least", memory, int64(MinMemory))
	}
	return &Maker{semaphore.NewWeighted(memory)}, nil
}

// Variants makes all sizes of an image, in the order of Sizes, each time the same bytes. It inspects the image first; what Inspect refuses, it refuses. It waits for memory, and returns within seconds of the end of ctx. Errors are
// faults: as those of Inspect, and invalid for what only decoding shows.
func (m *Maker) Variants(ctx context.Context, r io.ReadSeeker) ([]Variant, error) {
	s, err := newSource(ctx, r)
	if err != nil {
		return nil, err
	}
	info, err := s.inspect()
	if err != nil {
		return nil, err
	}
	if err := m.memory.Acquire(ctx, info.memory+besides); err != nil {
		return nil, fault.New(fault.Deadline, "the time for the image is over before there was memory for it").Because(err)
	}
	defer m.memory.Release(info.memory + besides)
	scaled, err := s.scaled(info)
	if err != nil {
		return nil, err
	}
	return encodeAll(ctx, scaled)
}

// scaled is the image in all sizes. The original is freed on return.
func (s *source) scaled(info Info) ([]*image.RGBA, error) {
	if err := s.rewind(); err != nil {
		return nil, err
	}
	decoded, err := guard(func() (image.Image, error) { return decoderOf(info.Type).image(s) })
	if err != nil {
		return nil, s.fault(err)
	}
	from, size := decoded, info.stored
	var all []*image.RGBA
	for _, want := range Sizes() {
		to := fit(info.stored, want.Side)
		made, err := shrink(from, size, to, s.stop)
		if err != nil {
			s.failed = err
			return nil, s.fault(err)
		}
		all = append(all, made)
		from, size = made, to // the next one from this: the original is read once
	}
	for i := range all {
		all[i] = upright(all[i], info.orientation)
	}
	return all, nil
}

// encodeAll encodes images, the largest first. All are of one type: whether any of it is transparent, the largest one shows best.
func encodeAll(ctx context.Context, scaled []*image.RGBA) ([]Variant, error) {
	t := PNG
	if scaled[0].Opaque() {
		t = JPEG
	}
	var all []Variant
	for i, size := range Sizes() {
		if err := ctx.Err(); err != nil {
			return nil, fault.New(fault.Deadline, "the time for the image is over").Because(err)
		}
		b, err := encode(scaled[i], t)
		if err != nil {
			return nil, fmt.Errorf("encode the variant %s: %w", size.Name, err)
		}
		all = append(all, Variant{
			Name: size.Name, Type: t, Width: scaled[i].Rect.Dx(), Height: scaled[i].Rect.Dy(), SHA256: sha256.Sum256(b), Bytes: b,
		})
	}
	return all, nil
}

func encode(m *image.RGBA, t Type) ([]byte, error) {
	var b bytes.Buffer
	if t == PNG {
		err := png.Encode(&b, m)
		return b.Bytes(), err
	}
	err := jpeg.Encode(&b, m, &jpeg.Options{Quality: quality})
	return b.Bytes(), err
}
