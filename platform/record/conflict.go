package record

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
)

// Etag is a hash of the record's dots: 22 characters, equal for equal copies, different whenever a leaf was written between. Empty for nil and for deleted records.
func Etag(rec *recordv1.Record) string {
	if rec == nil || rec.GetDeleted() != nil {
		return ""
	}
	var b []byte
	for _, p := range rec.GetLeaves() {
		b = appendLeafName(b, leafOf(p))
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// ConflictName names a conflict entry: hexadecimal SHA-256 over (type, id, path, key, losing dot), the same in every region.
func ConflictName(c *recordv1.Conflict) string {
	b := appendBytes(nil, []byte(c.GetType()))
	b = appendBytes(b, c.GetId())
	b = appendLeafName(b, leafOf(c.GetLost()))
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func appendLeafName(b []byte, l leaf) []byte {
	b = appendBytes(b, []byte(l.path))
	b = appendBytes(b, []byte(l.key))
	b = binary.BigEndian.AppendUint32(b, uint32(l.dot.Replica))
	return binary.BigEndian.AppendUint64(b, l.dot.N)
}

func appendBytes(b, s []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(len(s))), s...)
}

func secret(value []byte) []byte {
	sum := sha256.Sum256(value)
	return sum[:]
}

// conflictField is the field of a conflict and, for a map, the name of its key.
func (r *Registry) conflictField(c *recordv1.Conflict) (*field, string, error) {
	t, ok := r.types[c.GetType()]
	if !ok {
		return nil, "", unknownType(c.GetType())
	}
	l := leafOf(c.GetLost())
	f := t.byPath[l.path]
	if f == nil {
		return nil, "", fmt.Errorf("%w: conflict on field %s of %s, which is not known", ErrMalformed, l.path, t.name)
	}
	if f.policy != recordv1.Policy_POLICY_MAP_LWW {
		return f, f.name, nil
	}
	k, err := decodeMapKey(f.desc.MapKey(), l.key)
	if err != nil {
		return nil, "", fmt.Errorf("%w: conflict: %w", ErrMalformed, err)
	}
	return f, f.name + "." + k.String(), nil
}

// Restore writes the losing value of a conflict into msg, the message of the conflict's record, and returns the path that it touched, for Apply.
// It refuses an entry that holds only a digest.
func (r *Registry) Restore(msg proto.Message, c *recordv1.Conflict) (path string, err error) {
	if c.GetDigest() {
		return "", fmt.Errorf("%w: the conflict holds only a digest of the value", ErrRefused)
	}
	f, name, err := r.conflictField(c)
	if err != nil {
		return "", err
	}
	m := msg.ProtoReflect()
	if want := r.types[c.GetType()].zero.Descriptor(); m.Descriptor() != want {
		return "", fmt.Errorf("%w: conflict on a %s restored into a %s", ErrRefused, want.FullName(), m.Descriptor().FullName())
	}
	held := f.holder.New()
	if err := unmarshal(c.GetValue(), held.Interface()); err != nil {
		return "", fmt.Errorf("%w: conflict: %w", ErrMalformed, err)
	}
	if f.policy != recordv1.Policy_POLICY_MAP_LWW {
		if held.Has(f.desc) {
			f.put(m, held.Get(f.desc))
		} else {
			f.clear(m)
		}
		return name, nil
	}
	k, err := decodeMapKey(f.desc.MapKey(), string(c.GetLost().GetKey()))
	if err != nil {
		return "", fmt.Errorf("%w: conflict: %w", ErrMalformed, err)
	}
	if v := held.Get(f.desc).Map().Get(k); v.IsValid() {
		descend(m, f.parents).Mutable(f.desc).Map().Set(k, v)
	} else if _, ok := f.get(m); ok {
		descend(m, f.parents).Mutable(f.desc).Map().Clear(k)
	}
	return name, nil
}

// Describe renders a conflict for people: the field's name and both values as JSON, null for none; for a secret field digests, as hexadecimal strings.
func (r *Registry) Describe(c *recordv1.Conflict) (field, lost, won string, err error) {
	f, name, err := r.conflictField(c)
	if err != nil {
		return "", "", "", err
	}
	if c.GetDigest() {
		return name, fmt.Sprintf("%q", hex.EncodeToString(c.GetValue())), fmt.Sprintf("%q", hex.EncodeToString(c.GetWonValue())), nil
	}
	if lost, err = f.json(c.GetValue(), string(c.GetLost().GetKey())); err != nil {
		return "", "", "", err
	}
	if won, err = f.json(c.GetWonValue(), string(c.GetLost().GetKey())); err != nil {
		return "", "", "", err
	}
	return name, lost, won, nil
}

// json renders the wire encoding of one field, or of one entry of a map.
func (f *field) json(wire []byte, key string) (string, error) {
	held := f.holder.New()
	if err := unmarshal(wire, held.Interface()); err != nil {
		return "", fmt.Errorf("%w: conflict: %w", ErrMalformed, err)
	}
	if !held.Has(f.desc) {
		return "null", nil
	}
	// Other fields can stand in the bytes of a malformed entry; they are none of this field's.
	only := f.holder.New()
	only.Set(f.desc, held.Get(f.desc))
	b, err := protojson.MarshalOptions{AllowPartial: true}.Marshal(only.Interface())
	if err != nil {
		return "", fmt.Errorf("%w: conflict: %w", ErrMalformed, err)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(b, &object); err != nil {
		return "", fmt.Errorf("read value of %s: %w", f.name, err)
	}
	value := object[f.desc.JSONName()]
	if f.policy != recordv1.Policy_POLICY_MAP_LWW {
		return string(value), nil
	}
	k, err := decodeMapKey(f.desc.MapKey(), key)
	if err != nil {
		return "", fmt.Errorf("%w: conflict: %w", ErrMalformed, err)
	}
	return entryJSON(value, k)
}

func entryJSON(object json.RawMessage, k protoreflect.MapKey) (string, error) {
	var entries map[string]json.RawMessage
	if err := json.Unmarshal(object, &entries); err != nil {
		return "", fmt.Errorf("read entries: %w", err)
	}
	if v, ok := entries[k.String()]; ok {
		return string(v), nil
	}
	return "null", nil
}
