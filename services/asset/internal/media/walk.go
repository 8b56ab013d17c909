package media

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/color"
	"io"
	"slices"

	"golang.org/x/image/riff"
)

// maxEXIF is the most that a JPEG segment can hold.
const maxEXIF = 64 << 10

// Markers of JPEG (ITU-T T.81, table B.1).
const (
	jpegSOF0, jpegSOF2 = 0xc0, 0xc2
	jpegRST0, jpegRST7 = 0xd0, 0xd7
	jpegEOI, jpegSOS   = 0xd9, 0xda
	jpegAPP1           = 0xe1
)

// walkJPEG goes through the segments as package image/jpeg does. What is between them, the pixels of a scan, it passes over.
func walkJPEG(r *bufio.Reader, model color.Model) (details, error) {
	d := details{frames: 1}
	scans := 0
	if _, err := r.Discard(2); err != nil {
		return d, err
	}
	for {
		marker, err := jpegMarker(r)
		if err != nil {
			return d, err
		}
		if marker == jpegEOI {
			return d, nil
		}
		if marker == jpegSOS {
			if scans++; scans > MaxScans {
				return d, tooLarge("more than %d scans", MaxScans)
			}
		}
		if marker >= jpegRST0 && marker <= jpegRST7 {
			continue
		}
		var length [2]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return d, err
		}
		n := int(binary.BigEndian.Uint16(length[:])) - 2
		switch {
		case marker >= jpegSOF0 && marker <= jpegSOF2 && d.size == image.Point{}:
			err = d.jpegFrame(r, n, marker == jpegSOF2, model)
		case marker == jpegAPP1 && d.exif == nil:
			d.exif, err = jpegEXIF(r, n)
		default:
			_, err = r.Discard(n)
		}
		if err != nil {
			return d, err
		}
	}
}

// jpegMarker is the next marker. What is not one is passed over, as many programs do.
func jpegMarker(r *bufio.Reader) (byte, error) {
	var b [2]byte
	for {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, err
		}
		for b[0] != 0xff {
			next, err := r.ReadByte()
			if err != nil {
				return 0, err
			}
			b[0], b[1] = b[1], next
		}
		for b[1] == 0xff { // fill bytes
			next, err := r.ReadByte()
			if err != nil {
				return 0, err
			}
			b[1] = next
		}
		if b[1] != 0 {
			return b[1], nil
		}
	}
}

// jpegFrame reads a frame's header: its size, and what decoding it takes.
func (d *details) jpegFrame(r io.Reader, n int, progressive bool, model color.Model) error {
	if n < 6 || n > 6+3*4 {
		return errors.New("a frame's header has a wrong length")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	d.size = image.Pt(int(binary.BigEndian.Uint16(b[3:])), int(binary.BigEndian.Uint16(b[1:])))
	components := slices.Collect(slices.Chunk(b[6:], 3))
	if len(components) == 0 || len(components[len(components)-1]) != 3 {
		return errors.New("a frame's header has a wrong length")
	}
	across, down := int(components[0][1]>>4), int(components[0][1]&15)
	if across < 1 || down < 1 {
		return errors.New("a component has no samples")
	}
	mcus := int64((d.size.X + 8*across - 1) / (8 * across) * ((d.size.Y + 8*down - 1) / (8 * down)))
	for _, c := range components {
		d.memory += mcus * 64 * int64(c[1]>>4) * int64(c[1]&15)
	}
	if progressive {
		d.memory *= 5 // each sample, and its coefficient of four bytes until the end
	}
	if model == color.RGBAModel || model == color.CMYKModel {
		d.memory += 4 * int64(d.size.X) * int64(d.size.Y)
	}
	return nil
}

// jpegEXIF reads an APP1 segment; it is nil when that holds something else.
func jpegEXIF(r *bufio.Reader, n int) ([]byte, error) {
	const name = "Exif\x00\x00"
	if head, err := r.Peek(min(n, len(name))); err != nil {
		return nil, err
	} else if string(head) != name {
		_, err := r.Discard(n)
		return nil, err
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b[len(name):], err
}

// walkPNG reads what the header says beside the size.
func walkPNG(r *bufio.Reader, size image.Point, model color.Model) (details, error) {
	const interlace = 28 // after the signature, a chunk's length and name, and twelve bytes of the header
	head, err := r.Peek(interlace + 1)
	if err != nil {
		return details{}, err
	}
	perPixel := int64(4)
	switch model {
	case color.Gray16Model, color.RGBA64Model, color.NRGBA64Model:
		perPixel = 8
	}
	d := details{size: size, frames: 1, memory: perPixel * int64(size.X) * int64(size.Y)}
	if head[interlace] != 0 {
		d.memory += d.memory / 2 // the last pass, before it is merged
	}
	return d, nil
}

// walkGIF counts the frames. It reads to the end, decodes nothing, and stops at the bounds.
func walkGIF(r *bufio.Reader, size image.Point) (details, error) {
	d := details{size: size, memory: 2 * int64(size.X) * int64(size.Y)} // interlaced, a frame is copied once
	var screen [13]byte
	if _, err := io.ReadFull(r, screen[:]); err != nil {
		return d, err
	}
	if err := skipColours(r, screen[10]); err != nil {
		return d, err
	}
	pixels := 0
	for {
		block, err := r.ReadByte()
		if err != nil {
			return d, err
		}
		switch block {
		case ';':
			if d.frames == 0 {
				return d, errors.New("it has no frame")
			}
			return d, nil
		case '!':
			if _, err = r.ReadByte(); err == nil {
				err = skipBlocks(r)
			}
		case ',':
			d.frames++
			var frame image.Rectangle
			frame, err = gifFrame(r)
			pixels += frame.Dx() * frame.Dy()
			switch {
			case err != nil:
			case frame.Max.X > size.X || frame.Max.Y > size.Y:
				err = fmt.Errorf("frame %d lies outside of the image", d.frames)
			case d.frames > MaxFrames:
				err = tooLarge("more than %d frames", MaxFrames)
			case pixels > MaxFramePixels:
				err = tooLarge("its frames have more than %d pixels in all", MaxFramePixels)
			}
		default:
			err = fmt.Errorf("there is no block of type %#x", block)
		}
		if err != nil {
			return d, err
		}
	}
}

// gifFrame passes over a frame.
func gifFrame(r *bufio.Reader) (image.Rectangle, error) {
	var b [9]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return image.Rectangle{}, err
	}
	at := func(i int) int { return int(binary.LittleEndian.Uint16(b[i:])) }
	frame := image.Rect(at(0), at(2), at(0)+at(4), at(2)+at(6))
	if err := skipColours(r, b[8]); err != nil {
		return frame, err
	}
	if _, err := r.ReadByte(); err != nil { // width of codes
		return frame, err
	}
	return frame, skipBlocks(r)
}

// skipColours passes over a table of colours, if these flags say that there is one.
func skipColours(r *bufio.Reader, flags byte) error {
	if flags&0x80 == 0 {
		return nil
	}
	_, err := r.Discard(3 << (flags&7 + 1))
	return err
}

// skipBlocks passes over data in blocks of at most 255 bytes, to the empty one.
func skipBlocks(r *bufio.Reader) error {
	for {
		n, err := r.ReadByte()
		if err != nil || n == 0 {
			return err
		}
		if _, err := r.Discard(int(n)); err != nil {
			return err
		}
	}
}

// walkWebP goes through all chunks, so what is cut short is found here.
func walkWebP(r io.Reader, size image.Point, bytes int64) (details, error) {
	pixels := int64(size.X) * int64(size.Y)
	// Lossy coefficients are read as a whole; a sample and a half for each pixel, in blocks of 16.
	d := details{size: size, frames: 1, memory: bytes + 2*(pixels+16*int64(size.X+size.Y)+256)}
	_, chunks, err := riff.NewReader(r)
	if err != nil {
		return d, err
	}
	lossless := false
	for {
		id, n, chunk, err := chunks.Next()
		if errors.Is(err, io.EOF) {
			if lossless {
				// Four bytes a pixel, four again for an inverted transform, and two for what transforms and codes are chosen by; and the greatest number of trees of codes that the decoder takes.
				d.memory += 10*pixels + 140<<20
			}
			return d, nil
		}
		if err != nil {
			return d, err
		}
		switch string(id[:]) {
		case "VP8L", "ALPH":
			lossless = true
		case "ANIM", "ANMF":
			return d, invalid("animated WebP is not supported")
		case "EXIF":
			if n > maxEXIF || d.exif != nil {
				continue
			}
			if d.exif, err = io.ReadAll(chunk); err != nil {
				return d, err
			}
		}
	}
}
