package claims

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Bounds of an address in its canonical form, in bytes (RFC 5321, 4.5.3.1).
const (
	maxAddress = 254
	maxLocal   = 64
)

// ErrAddress is wrapped by every error of CanonicalEmail; the errors' texts are meant for the caller of the API.
var ErrAddress = errors.New("not an e-mail address")

// CanonicalEmail is the form in which e-mail addresses are compared: Unicode NFC, the local part case-folded, the domain as IDNA makes it
// for a look-up in the DNS (ASCII, lower case). It is idempotent. Mail systems may tell "John" from "john"; here they are one, as nearly everywhere.
//
// It takes a bare addr-spec (RFC 5322, with the letters of RFC 6532) and refuses display names, comments, quoted local parts, address literals and domains without a dot.
func CanonicalEmail(address string) (string, error) {
	if !utf8.ValidString(address) || strings.ContainsFunc(address, invisible) {
		return "", fmt.Errorf("%w: it has characters that no address has", ErrAddress)
	}
	address = norm.NFC.String(address)
	parsed, err := mail.ParseAddress(address)
	if err != nil || parsed.Address != address {
		return "", fmt.Errorf("%w: it must have the form local@domain, and nothing around it", ErrAddress)
	}
	at := strings.LastIndexByte(address, '@')
	local := norm.NFC.String(cases.Fold().String(address[:at]))
	lookup := idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true))
	domain, err := lookup.ToASCII(address[at+1:])
	if err != nil {
		return "", fmt.Errorf("%w: the domain is not valid: %w", ErrAddress, err)
	}
	if !strings.Contains(domain, ".") || strings.HasSuffix(domain, ".") || strings.HasPrefix(domain, "[") {
		return "", fmt.Errorf("%w: the domain must be a full domain name", ErrAddress)
	}
	if len(local) > maxLocal || len(local)+1+len(domain) > maxAddress {
		return "", fmt.Errorf("%w: at most %d bytes before the @, and %d in all", ErrAddress, maxLocal, maxAddress)
	}
	return local + "@" + domain, nil
}

// invisible characters would make two addresses of what people read as one.
func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) || r == '\ufffd'
}
