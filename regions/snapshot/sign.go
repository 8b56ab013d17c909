package snapshot

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Keys sign snapshots, and verify them: HMAC-SHA-256. The first key signs.
type Keys []Key

// Key is a secret with a name.
type Key struct {
	ID     string `json:"id"`
	Secret []byte `json:"secret"`
}

const minSecret = 32 // bytes

// LoadKeys reads the file of keys, {"keys":[{"id":…,"secret":…}]} with secrets of at least 32 bytes in base64.
func LoadKeys(path string) (Keys, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the keys of snapshots: %w", err)
	}
	var file struct {
		Keys Keys `json:"keys"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("read the keys of snapshots in %s: %w", path, err)
	}
	if len(file.Keys) == 0 {
		return nil, fmt.Errorf("read the keys of snapshots in %s: there are none", path)
	}
	for _, k := range file.Keys {
		if k.ID == "" || len(k.Secret) < minSecret {
			return nil, fmt.Errorf("read the keys of snapshots in %s: each needs an id and a secret of at least %d bytes", path, minSecret)
		}
	}
	return file.Keys, nil
}

// envelope is a signed snapshot; as text it is one line.
type envelope struct {
	Key     string `json:"key"`
	Payload []byte `json:"payload"`
	MAC     []byte `json:"mac"`
}

// Sign writes a snapshot as one line of JSON, without the end of the line.
func (k Keys) Sign(s *Snapshot) ([]byte, error) {
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode a snapshot: %w", err)
	}
	line, err := json.Marshal(envelope{k[0].ID, payload, k[0].mac(payload)})
	if err != nil {
		return nil, fmt.Errorf("encode a signed snapshot: %w", err)
	}
	return line, nil
}

// ErrForged says that a snapshot was not signed with one of the keys.
var ErrForged = errors.New("the snapshot is not signed with a known key")

// Verify reads a signed snapshot. Its errors are ErrForged, or that the text is none.
func (k Keys) Verify(line []byte) (*Snapshot, error) {
	var e envelope
	if err := json.Unmarshal(line, &e); err != nil {
		return nil, fmt.Errorf("decode a signed snapshot: %w", err)
	}
	for _, key := range k {
		if key.ID != e.Key || !hmac.Equal(key.mac(e.Payload), e.MAC) {
			continue
		}
		s := new(Snapshot)
		if err := json.Unmarshal(e.Payload, s); err != nil {
			return nil, fmt.Errorf("decode a snapshot: %w", err)
		}
		return s, nil
	}
	return nil, ErrForged
}

func (k Key) mac(payload []byte) []byte {
	h := hmac.New(sha256.New, k.Secret)
	h.Write([]byte("antipode snapshot\x00"))
	h.Write(payload)
	return h.Sum(nil)
}
