package media

import (
	"image"
	"image/draw"
)

// fit is a size with the proportions of size whose longest side is at most side. It is never larger than size.
func fit(size image.Point, side int) image.Point {
	long := max(size.X, size.Y)
	if long <= side {
		return size
	}
	scaled := func(n int) int { return max(1, (2*n*side+long)/(2*long)) } // rounded
	return image.Pt(scaled(size.X), scaled(size.Y))
}

// shrink makes an image of at most the same size: each pixel is the mean of the pixels, and parts of pixels, that it covers. What of the canvas, which begins at (0,0), src does not cover is transparent. It asks stop before
// each line.
//
// Package draw of golang.org/x/image has filters that keep edges sharper. They need 32 bytes for each line of the original and column of the result, 150 MB for a photo of 12 megapixels, and cannot be stopped. Here it is
// two lines, and whole numbers only.
func shrink(src image.Image, canvas, to image.Point, stop func() error) (*image.RGBA, error) {
	out := image.NewRGBA(image.Rectangle{Max: to})
	line := image.NewRGBA(image.Rect(0, 0, canvas.X, 1))
	columns := make([]int64, 4*to.X) // of this line
	sums := make([]int64, 4*to.X)    // of all lines since the last one of out
	area := int64(canvas.X) * int64(canvas.Y)
	y, lacks := 0, canvas.Y // a line is to.Y units high, a line of out as many as there are lines
	for from := range canvas.Y {
		if err := stop(); err != nil {
			return nil, err
		}
		clear(line.Pix)
		draw.Draw(line, line.Rect, src, image.Pt(0, from), draw.Src)
		clear(columns)
		addLine(columns, line.Pix, canvas.X, to.X)
		for units := to.Y; units > 0; {
			part := min(units, lacks)
			for i, c := range columns {
				sums[i] += c * int64(part)
			}
			units, lacks = units-part, lacks-part
			if lacks == 0 {
				for i, s := range sums {
					out.Pix[y*out.Stride+i] = uint8((s + area/2) / area) //nolint:gosec // the mean of bytes
				}
				clear(sums)
				y, lacks = y+1, canvas.Y
			}
		}
	}
	return out, nil
}

// addLine adds a line of n pixels to w columns: a pixel is w units wide, a column n.
func addLine(columns []int64, line []uint8, n, w int) {
	x, lacks := 0, n
	for i := range n {
		p := line[4*i : 4*i+4 : 4*i+4]
		for units := w; units > 0; {
			part := min(units, lacks)
			c := columns[4*x : 4*x+4 : 4*x+4]
			for k := range 4 {
				c[k] += int64(p[k]) * int64(part)
			}
			units, lacks = units-part, lacks-part
			if lacks == 0 {
				x, lacks = x+1, n
			}
		}
	}
}

// upright turns and mirrors an image as its orientation says.
func upright(src *image.RGBA, o orientation) *image.RGBA {
	if o <= 1 {
		return src
	}
	w, h := src.Rect.Dx(), src.Rect.Dy()
	size := image.Pt(w, h)
	if o.turned() {
		size = image.Pt(h, w)
	}
	out := image.NewRGBA(image.Rectangle{Max: size})
	for y := range size.Y {
		for x := range size.X {
			from := o.stored(image.Pt(x, y), w, h)
			copy(out.Pix[out.PixOffset(x, y):], src.Pix[src.PixOffset(from.X, from.Y):][:4])
		}
	}
	return out
}

// stored is where in the stored image, of width w and height h, a pixel of the upright one is.
func (o orientation) stored(p image.Point, w, h int) image.Point {
	switch o {
	case 2:
		return image.Pt(w-1-p.X, p.Y)
	case 3:
		return image.Pt(w-1-p.X, h-1-p.Y)
	case 4:
		return image.Pt(p.X, h-1-p.Y)
	case 5:
		return image.Pt(p.Y, p.X)
	case 6:
		return image.Pt(p.Y, h-1-p.X)
	case 7:
		return image.Pt(w-1-p.Y, h-1-p.X)
	case 8:
		return image.Pt(w-1-p.Y, p.X)
	default:
		return p
	}
}
