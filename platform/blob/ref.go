package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"antipode.example/platform/fault"
)

// Sum is the SHA-256 of a content, by which its blob is named.
type Sum [sha256.Size]byte

// ParseSum reads what String writes: 64 hexadecimal digits in lower case. Everything else is a fault of kind Invalid that names the field "sha256".
func ParseSum(text string) (Sum, error) {
	var s Sum
	if len(text) == hex.EncodedLen(len(s)) && text == strings.ToLower(text) {
		if _, err := hex.Decode(s[:], []byte(text)); err == nil {
			return s, nil
		}
	}
	return Sum{}, fault.New(fault.Invalid, "the request is not valid").With("sha256", "must be 64 hexadecimal digits in lower case")
}

// String is the sum in hexadecimal.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Ref names a content.
type Ref struct {
	SHA256 Sum
	Size   int64 // bytes
}

// RefOf makes a Ref of what a record holds. Another length than 32 bytes, and a negative size, are a fault of kind Invalid.
func RefOf(sum []byte, size int64) (Ref, error) {
	if len(sum) != sha256.Size || size < 0 {
		return Ref{}, fault.New(fault.Invalid, "%d bytes of hash and a size of %d name no content", len(sum), size)
	}
	return Ref{SHA256: Sum(sum), Size: size}, nil
}

// Where blobs are in a bucket: "sha256/ab/cd/abcd…". Two levels of directories keep each one small on a file system: a million blobs are 16 in each.
const keyPrefix = "sha256/"

func (s Sum) key() string {
	name := s.String()
	return keyPrefix + name[:2] + "/" + name[2:4] + "/" + name
}

// sumOfKey reads what key writes.
func sumOfKey(key string) (Sum, bool) {
	s, err := ParseSum(key[strings.LastIndexByte(key, '/')+1:])
	return s, err == nil && s.key() == key
}
