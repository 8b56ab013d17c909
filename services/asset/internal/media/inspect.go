package media

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

// The bounds of an image that is looked into. One that is beyond them can be stored and downloaded like any other content.
const (
	// MaxPixels is width times height.
	MaxPixels = 50_000_000
	// MaxSide is the greatest width and height.
	MaxSide = 20_000
	// MaxRatio is how many times as long as the other side a side may be.
	MaxRatio = 100
	// MaxFrames is how many pictures an animation may have, MaxFramePixels how many pixels all of them together.
	MaxFrames      = 1_000
	MaxFramePixels = 1_000_000_000
	// MaxScans is how many times a JPEG may go through its pixels. Encoders make about ten scans; without a bound, one of a few hundred bytes costs as much as the whole image.
	MaxScans = 50
	// MaxBytes is the size of the encoded image.
	MaxBytes = 256 << 20
	// MaxMemory is what a decoder may need, in bytes. It is more than images of 50 megapixels need but for rare kinds: progressive JPEG without subsampling above 35 megapixels, interlaced PNG of 16 bits above 44, lossless
	// WebP above 39.
	MaxMemory = 512 << 20
)

// Info is what an image says of itself.
type Info struct {
	Type Type
	// Width and Height are in pixels, of the image as it is shown, upright.
	Width, Height int
	// Frames is more than 1 in an animation.
	Frames int
	// CaptureTime is when the image was taken, "2006-01-02T15:04:05", by the camera's local time, with its offset ("+01:00") if the camera knew it. Empty if that is not known.
	CaptureTime string

	stored      image.Point // size before it is turned upright
	orientation orientation
	memory      int64 // what decoding takes at most, in bytes
}

// Inspect looks at an image without decoding a pixel, in constant memory. Errors are faults: invalid, when it is none, or damaged; too_large, when it is beyond the bounds; unavailable, when r fails; deadline. What only decoding
// shows, Inspect does not find: see Maker.Variants.
func Inspect(ctx context.Context, r io.ReadSeeker) (Info, error) {
	s, err := newSource(ctx, r)
	if err != nil {
		return Info{}, err
	}
	return s.inspect()
}

// details is what only a walk through an image's segments shows.
type details struct {
	size   image.Point // zero if the walk did not see it
	frames int
	exif   []byte
	memory int64
}

func (s *source) inspect() (Info, error) {
	head := make([]byte, SniffBytes)
	n, err := io.ReadFull(s, head)
	if s.failed != nil {
		return Info{}, s.fault(err)
	}
	t := Sniff(head[:n])
	switch {
	case !t.Image():
		return Info{}, invalid("it is not a JPEG, PNG, GIF or WebP image")
	case s.size > MaxBytes:
		return Info{}, tooLarge("%d bytes of at most %d", s.size, int64(MaxBytes))
	}
	size, model, err := s.config(t)
	if err != nil {
		return Info{}, err
	}
	if err := checkSize(size); err != nil {
		return Info{}, err
	}
	d, err := s.walk(t, size, model)
	if err != nil {
		return Info{}, err
	}
	if d.memory > MaxMemory {
		return Info{}, tooLarge("decoding it takes %d bytes of memory of at most %d", d.memory, int64(MaxMemory))
	}
	info := Info{Type: t, Width: size.X, Height: size.Y, Frames: d.frames, stored: size, memory: d.memory}
	if info.orientation, info.CaptureTime = readEXIF(d.exif); info.orientation.turned() {
		info.Width, info.Height = size.Y, size.X
	}
	return info, nil
}

// config is the size that the decoder itself finds.
func (s *source) config(t Type) (image.Point, color.Model, error) {
	if err := s.rewind(); err != nil {
		return image.Point{}, nil, err
	}
	c, err := guard(func() (image.Config, error) { return decoderOf(t).config(s) })
	if err != nil {
		return image.Point{}, nil, s.fault(err)
	}
	return image.Pt(c.Width, c.Height), c.ColorModel, nil
}

type decoder struct {
	config func(io.Reader) (image.Config, error)
	image  func(io.Reader) (image.Image, error)
}

// decoderOf is the decoder of a type of images. Of an animation it decodes the first frame.
func decoderOf(t Type) decoder {
	switch t {
	case JPEG:
		return decoder{jpeg.DecodeConfig, jpeg.Decode}
	case PNG:
		return decoder{png.DecodeConfig, png.Decode}
	case GIF:
		return decoder{gif.DecodeConfig, gif.Decode}
	default:
		return decoder{webp.DecodeConfig, webp.Decode}
	}
}

// guard turns a panic into an error: a decoder that stumbles over content must not take the process with it.
func guard[T any](decode func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the decoder panicked: %v", p)
		}
	}()
	return decode()
}

func checkSize(size image.Point) error {
	long, short := max(size.X, size.Y), min(size.X, size.Y)
	switch {
	case short < 1:
		return invalid("it has no pixels")
	case long > MaxSide:
		return tooLarge("%d × %d pixels, at most %d at a side", size.X, size.Y, MaxSide)
	case size.X*size.Y > MaxPixels:
		return tooLarge("%d × %d pixels, at most %d in all", size.X, size.Y, MaxPixels)
	case long > short*MaxRatio:
		return invalid("%d × %d pixels: a side is more than %d times as long as the other", size.X, size.Y, MaxRatio)
	}
	return nil
}

// walk goes through the segments of an image whose size is within the bounds.
func (s *source) walk(t Type, size image.Point, model color.Model) (details, error) {
	if err := s.rewind(); err != nil {
		return details{}, err
	}
	r := bufio.NewReader(s)
	var d details
	var err error
	switch t {
	case JPEG:
		d, err = walkJPEG(r, model)
	case GIF:
		d, err = walkGIF(r, size)
	case WebP:
		d, err = walkWebP(r, size, s.size)
	default:
		d, err = walkPNG(r, size, model)
	}
	if err == nil && d.size != size {
		err = errors.New("two headers say two sizes")
	}
	if err != nil {
		return details{}, s.fault(err)
	}
	return d, nil
}
