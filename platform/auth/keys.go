package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"antipode.example/platform/hlc"
)

const (
	// reloadEvery is between two looks at the key files.
	reloadEvery = 5 * time.Second
	// maxKeyFile bounds a key file, in bytes.
	maxKeyFile = 1 << 20
)

// SigningKeys is the file signing.<region>.json: the private keys of one region, which no other region reads. The first signs.
type SigningKeys struct {
	Keys []SigningKey `json:"keys"`
}

// SigningKey is one private key.
type SigningKey struct {
	// ID is 1 to 64 letters, digits, "-" and "_"; unique within the region, also among keys that are gone.
	ID string `json:"id"`
	// Seed is the private key of RFC 8032, 32 bytes.
	Seed []byte `json:"seed"`
	// Since is when every region had the public half, or when the key began to sign; Rotate waits from then on.
	Since time.Time `json:"since,omitzero"`
}

// String does not show the seed.
func (k SigningKey) String() string { return "signing key " + k.ID }

// LogValue does not show the seed.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

func (k SigningKey) private() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(k.Seed) }

// Public is what other regions have to know of the key.
func (k SigningKey) Public(region string) VerifyKey {
	public, _ := k.private().Public().(ed25519.PublicKey)
	return VerifyKey{Region: region, ID: k.ID, Public: public}
}

// VerifyKeys are what the file verify.json has, {"keys":[…]}: the public keys of all regions, the same in every region.
type VerifyKeys []VerifyKey

// verifyFile is the file.
type verifyFile struct {
	Keys []VerifyKey `json:"keys"`
}

// MarshalJSON is the content of the file.
func (v VerifyKeys) MarshalJSON() ([]byte, error) { return json.Marshal(verifyFile{v}) }

// VerifyKey is one public key.
type VerifyKey struct {
	Region string `json:"region"`
	ID     string `json:"id"`
	// Public is the public key of RFC 8032, 32 bytes.
	Public []byte `json:"public"`
	// Until is when the last token that the key may have signed has expired; zero while it may sign. It is for Rotate: who verifies does not look at it.
	Until time.Time `json:"until,omitzero"`
}

// kid names a key in tokens and in the JWKS document. A region's name has no slash.
func (k VerifyKey) kid() string { return k.Region + "/" + k.ID }

// ParseSigningKeys reads the file of a region's private keys. It refuses unknown members, an empty list, and keys that are not one.
func ParseSigningKeys(b []byte) (SigningKeys, error) {
	var s SigningKeys
	if err := parse(b, &s); err != nil {
		return SigningKeys{}, err
	}
	return s, s.check()
}

func (s SigningKeys) check() error {
	if len(s.Keys) == 0 {
		return errors.New("has no key")
	}
	seen := map[string]bool{}
	for i, k := range s.Keys {
		if !word(k.ID) || len(k.Seed) != ed25519.SeedSize {
			return fmt.Errorf("keys[%d]: it needs an id of 1 to 64 letters, digits, \"-\" and \"_\", and a seed of %d bytes", i, ed25519.SeedSize)
		}
		if seen[k.ID] {
			return fmt.Errorf("keys[%d]: the id %q occurs twice", i, k.ID)
		}
		seen[k.ID] = true
	}
	return nil
}

// ParseVerifyKeys reads the file of all regions' public keys. It refuses unknown members, an empty list, keys that are not one, a name that occurs twice, and a key of two names: the second
// name's region could speak for the first one's.
func ParseVerifyKeys(b []byte) (VerifyKeys, error) {
	var f verifyFile
	if err := parse(b, &f); err != nil {
		return nil, err
	}
	v := VerifyKeys(f.Keys)
	return v, v.check()
}

func (v VerifyKeys) check() error {
	if len(v) == 0 {
		return errors.New("has no key")
	}
	seen := map[string]bool{}
	for i, k := range v {
		if !word(k.Region) || !word(k.ID) || len(k.Public) != ed25519.PublicKeySize {
			return fmt.Errorf("keys[%d]: it needs a region and an id of 1 to 64 letters, digits, \"-\" and \"_\", and a public key of %d bytes", i, ed25519.PublicKeySize)
		}
		if seen[k.kid()] || seen[string(k.Public)] {
			return fmt.Errorf("keys[%d]: the key %q, or its public half, occurs twice", i, k.kid())
		}
		seen[k.kid()], seen[string(k.Public)] = true, true
	}
	return nil
}

func parse(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

func word(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// KeysConfig is where keys are. Region, VerifyFile, Clock and Log are required.
type KeysConfig struct {
	// Region is this region's name.
	Region string
	// SigningFile is signing.<region>.json, which nobody but its owner may read; empty in a process that only verifies.
	SigningFile string
	// VerifyFile is verify.json, which nobody but its owner may write.
	VerifyFile string
	Clock      hlc.Clock
	Log        *slog.Logger
	// Meter shows whether a file is bad; may be nil.
	Meter metric.Meter
}

// Keys are the keys in force: those of the last good files. It issues tokens of its region and verifies those of all regions. It is safe for concurrent use.
type Keys struct {
	cfg    KeysConfig
	parser *jwt.Parser
	verify atomic.Pointer[verifySet]
	signer atomic.Pointer[signer] // nil in a process that only verifies

	mu    sync.Mutex // of Check
	files [2]keyFile
}

// keyFile is what is known of one of the files.
type keyFile struct {
	content []byte // of the last good one
	fault   string // what is wrong with it now, empty when nothing is
	bad     atomic.Bool
}

type signer struct {
	kid     string
	private ed25519.PrivateKey
}

type verifySet struct {
	keys map[string]verifyKey // by kid
	jwks document
}

type verifyKey struct {
	region string
	public ed25519.PublicKey
}

// OpenKeys reads both files; an error is that one of them is bad, or that the key which would sign is not among those that regions accept. Run follows their changes.
func OpenKeys(cfg KeysConfig) (*Keys, error) {
	if !word(cfg.Region) || cfg.VerifyFile == "" || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("open keys: a region, the file of public keys, a clock and a logger are needed")
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	k := &Keys{cfg: cfg, parser: newParser(cfg.Clock)}
	if _, err := cfg.Meter.Int64ObservableGauge("antipode.auth.keys.bad", metric.WithDescription("1 while a key file is bad and the keys of the last good one are in force."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for i, name := range []string{"verify", "signing"} {
				bad := int64(0)
				if k.files[i].bad.Load() {
					bad = 1
				}
				o.Observe(bad, metric.WithAttributes(attribute.String("file", name)))
			}
			return nil
		})); err != nil {
		return nil, fmt.Errorf("make the metrics of keys: %w", err)
	}
	if err := errors.Join(k.loadVerify(), k.loadSigner()); err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return k, nil
}

// Run looks at the files every five seconds until ctx ends.
func (k *Keys) Run(ctx context.Context) {
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			k.Check(ctx)
		}
	}
}

// Check puts what has changed in the files into force. A file that has become bad changes nothing; it is logged, once for each way of being bad. The files are read whole each
// time: that costs less than to be wrong about what a file's time of change means.
func (k *Keys) Check(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.report(ctx, &k.files[0], k.loadVerify())
	k.report(ctx, &k.files[1], k.loadSigner())
}

func (k *Keys) report(ctx context.Context, f *keyFile, err error) {
	f.bad.Store(err != nil)
	switch {
	case err == nil && f.fault != "":
		f.fault = ""
		k.cfg.Log.InfoContext(ctx, "key file is good again")
	case err != nil && f.fault != err.Error():
		f.fault = err.Error()
		k.cfg.Log.ErrorContext(ctx, "key file is bad: the last good one stays in force", slog.Any("error", err))
	}
}

func (k *Keys) loadVerify() error {
	b, err := readKeyFile(k.cfg.VerifyFile, 0o022, "write")
	if err != nil {
		return err
	}
	if k.verify.Load() != nil && bytes.Equal(b, k.files[0].content) {
		return nil
	}
	all, err := ParseVerifyKeys(b)
	if err != nil {
		return fmt.Errorf("key file %s: %w", k.cfg.VerifyFile, err)
	}
	set := &verifySet{keys: make(map[string]verifyKey, len(all))}
	for _, v := range all {
		set.keys[v.kid()] = verifyKey{v.Region, v.Public}
	}
	if set.jwks, err = newJWKS(all); err != nil {
		return err
	}
	k.files[0].content = b
	k.verify.Store(set)
	return nil
}

// loadSigner comes after loadVerify: a key signs only what this process itself would accept.
func (k *Keys) loadSigner() error {
	set := k.verify.Load()
	if k.cfg.SigningFile == "" || set == nil {
		return nil
	}
	b, err := readKeyFile(k.cfg.SigningFile, 0o077, "read")
	if err != nil {
		return err
	}
	s, err := ParseSigningKeys(b)
	if err != nil {
		return fmt.Errorf("key file %s: %w", k.cfg.SigningFile, err)
	}
	first := s.Keys[0].Public(k.cfg.Region)
	if !set.keys[first.kid()].public.Equal(ed25519.PublicKey(first.Public)) {
		return fmt.Errorf("key file %s: the first key, %s, is not in %s: no region would accept what it signs", k.cfg.SigningFile, first.kid(), k.cfg.VerifyFile)
	}
	k.signer.Store(&signer{first.kid(), s.Keys[0].private()})
	return nil
}

// readKeyFile reads a file that others may not read, or not write.
func readKeyFile(name string, forbidden os.FileMode, what string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if info.Mode().Perm()&forbidden != 0 {
		return nil, fmt.Errorf("key file %s: others can %s it (mode %o): chmod 600 %s", name, what, info.Mode().Perm(), name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	if len(b) > maxKeyFile {
		return nil, fmt.Errorf("key file %s: is larger than %d bytes", name, maxKeyFile)
	}
	return b, nil
}
