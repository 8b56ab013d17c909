package media

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Download is content that is sent to somebody.
type Download struct {
	// Type is what its bytes are.
	Type Type
	// Name is what its owner called it. It may be anything.
	Name string
	// Public: everybody may have it, and under its address there will never be other bytes.
	Public bool
	// Save asks the browser to save it, in place of showing it.
	Save bool
}

// maxFileName bounds the name of a file, in bytes; file systems take 255.
const maxFileName = 200

// Headers sets what a response with this content says of it. Only images of the known types are shown, and what is shown can load and run nothing.
func (d Download) Headers(h http.Header) {
	shown := d.Type.Image()
	contentType, disposition := Unknown, "attachment"
	if shown {
		contentType = d.Type
		if !d.Save {
			disposition = "inline"
		}
	}
	h.Set("Content-Type", string(contentType))
	h.Set("Content-Disposition", disposition+fileNameParameters(FileName(d.Name, contentType)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	if d.Public {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		return
	}
	h.Set("Cache-Control", "private, no-store")
	h.Set("Cross-Origin-Resource-Policy", "same-site")
}

// FileName makes the name of a file, of at most 200 bytes, out of any text. It names no directory, hides nothing, and has neither control characters nor such that turn the direction of text. The
// file of an image ends as files of its type do, so that what is saved as "cat.html" is not opened as a page afterwards.
func FileName(text string, t Type) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case strings.ContainsRune(`/\:*?"<>|`, r), unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co), r == utf8.RuneError:
			return '_'
		case unicode.IsSpace(r):
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "_"))
	name = strings.Trim(name, " .")
	extension := path.Ext(name)
	if len(extension) > 16 {
		extension = ""
	}
	stem := strings.TrimSuffix(name, extension)
	if fits := t.extensions(); fits != nil && !slices.Contains(fits, strings.ToLower(extension)) {
		stem, extension = name, fits[0]
	}
	if stem == "" {
		stem = "download"
	}
	return strings.TrimRight(cut(stem, maxFileName-len(extension))+extension, " .")
}

// cut is the beginning of a text, of at most n bytes and whole characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// fileNameParameters are the parameters of Content-Disposition that name a file (RFC 6266): in ASCII for everybody, and, if that loses something, as RFC 8187 writes all other names for those who can read it.
// A per cent sign in the first would be decoded by some browsers and not by others.
func fileNameParameters(name string) string {
	ascii := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '%' {
			return '_'
		}
		return r
	}, name)
	parameters := `; filename="` + ascii + `"`
	if ascii != name {
		// What QueryEscape leaves as it is, RFC 8187 allows, but the plus sign.
		parameters += "; filename*=UTF-8''" + strings.ReplaceAll(url.QueryEscape(name), "+", "%20")
	}
	return parameters
}
