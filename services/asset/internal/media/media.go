// Package media says what bytes are, and makes small copies of images.
//
// It owns which types of content are shown in browsers, the headers under which content is sent, the bounds of what is looked into, and the sizes of variants. It guarantees:
//
//   - a type comes from the bytes alone, never from a name or from what a client claims; what is not a JPEG, PNG, GIF or WebP image is sent as a download that no browser shows or runs;
//   - nothing is decoded that the bounds below do not allow, and what its header claims is checked before memory is taken for it: an image needs at most MaxMemory, all that a Maker works on at a time at most
//     its budget;
//   - content that is not valid is refused with a fault, whatever a decoder makes of it; so a fault here is for ever, unless its kind is unavailable or deadline;
//   - a variant is upright, has no metadata of the original (no place, no camera, no thumbnail) and no pixel more than it, and depends on nothing but the bytes of the original and the release of Go.
//
// A decoder cannot be interrupted from outside. It asks for more bytes again and again, though, so it gets few at a time, and none once the context has ended: it returns within seconds, and no goroutine is left to work on.
// All decoders are Go, safe in memory; a process of its own for them would add a limit for what they are given already, and is not worth it.
//
// Not covered: colour profiles are dropped, so the colours of images in wide spaces become duller. Orientation is read from JPEG and WebP, not from PNG. Of an animation the first frame is made smaller; animated WebP is not
// looked into at all.
package media

import "bytes"

// Type is a media type.
type Type string

// The types that bytes can be. All but Unknown are shown in browsers.
const (
	Unknown Type = "application/octet-stream"
	JPEG    Type = "image/jpeg"
	PNG     Type = "image/png"
	GIF     Type = "image/gif"
	WebP    Type = "image/webp"
)

// SniffBytes is how many bytes from the beginning of content Sniff needs at most.
const SniffBytes = 16

// Sniff is the type of the content that begins so, by its signature. Whatever else the bytes may be read as, by a browser or an archiver, does not count.
func Sniff(head []byte) Type {
	switch {
	case bytes.HasPrefix(head, []byte("\xff\xd8\xff")):
		return JPEG
	case bytes.HasPrefix(head, []byte("\x89PNG\r\n\x1a\n")):
		return PNG
	case bytes.HasPrefix(head, []byte("GIF87a")), bytes.HasPrefix(head, []byte("GIF89a")):
		return GIF
	case len(head) >= 15 && string(head[:4]) == "RIFF" && string(head[8:15]) == "WEBPVP8":
		return WebP
	default:
		return Unknown
	}
}

// Image reports whether a browser may show it.
func (t Type) Image() bool { return t.extensions() != nil }

// extensions of the names of files, the usual one first; none when the type may have any.
func (t Type) extensions() []string {
	switch t {
	case JPEG:
		return []string{".jpg", ".jpeg", ".jpe", ".jfif"}
	case PNG:
		return []string{".png"}
	case GIF:
		return []string{".gif"}
	case WebP:
		return []string{".webp"}
	default:
		return nil
	}
}
