// Package config reads the configuration file of a program: YAML into a struct, strictly.
//
// Guarantees: what Load accepts is in the struct, and everything in the file was understood. Refused, each with one error that names the file, the
// key and what was expected: a key that the struct does not have (with the nearest one that it has), a value of another type or out of range, a required value
// that is missing or empty, whatever the struct's own Validate refuses. Numbers are not strings and strings are not numbers; nothing is
// converted.
//
// Keys are the `koanf` tags of the struct's fields. A field with the tag `config:"required"` must not be empty (zero). Defaults are what the struct holds
// before. An embedded struct with the tag `koanf:",squash"` stands for its fields. A time.Duration is written like "1m30s"; a type with UnmarshalText is written as its text.
//
// Not here: flags, environment variables, reloading.
package config

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
)

const tag = "koanf"

// Error is what is wrong with a configuration.
type Error struct {
	File    string // empty until Load has filled it in
	Key     string // path like "peers[0].region"; empty when it is the file as a whole
	Problem string
}

// Error is "file: key: problem".
func (e *Error) Error() string {
	parts := slices.DeleteFunc([]string{e.File, e.Key, e.Problem}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// Errorf is for Validate methods: the value of a key is not what it has to be.
func Errorf(key, format string, args ...any) error {
	return &Error{Key: key, Problem: fmt.Sprintf(format, args...)}
}

// Load reads a file into the struct that into points to, and calls its Validate method if it has one. On error, *into is not to be used. The error
// is an *Error, or one of reading the file.
func Load(file string, into any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return Parse(file, b, into)
}

// Parse is Load of a file that has been read.
func Parse(file string, b []byte, into any) error {
	err := parse(b, into)
	var e *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		return &Error{File: file, Key: e.Key, Problem: e.Problem}
	default:
		return &Error{File: file, Problem: err.Error()}
	}
}

func parse(b []byte, into any) error {
	k := koanf.New(".")
	if err := k.Load(rawbytes.Provider(b), yaml.Parser()); err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n ", ""))
	}
	var meta mapstructure.Metadata
	d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: into, TagName: tag, Metadata: &meta, DecodeHook: convert,
		MatchName: func(key, field string) bool { return key == field },
	})
	if err != nil {
		return fmt.Errorf("configuration struct: %w", err)
	}
	err = d.Decode(k.Raw())
	if len(meta.Unused) > 0 { // before errors of types: a misspelt key explains most
		slices.Sort(meta.Unused)
		return unknown(reflect.TypeOf(into), meta.Unused[0])
	}
	if err != nil {
		var at *mapstructure.DecodeError
		if errors.As(err, &at) {
			return &Error{Key: at.Name(), Problem: at.Unwrap().Error()}
		}
		return err
	}
	if err := missing(reflect.ValueOf(into), ""); err != nil {
		return err
	}
	if v, ok := into.(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}

var (
	duration = reflect.TypeFor[time.Duration]()
	text     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// convert refuses what mapstructure would convert in silence, and makes durations and types with UnmarshalText.
func convert(from, to reflect.Value) (any, error) {
	t := to.Type()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	value := from.Interface()
	s, isString := value.(string)
	bad := fmt.Errorf("must be %s, is %s", expected(t), describe(value))
	switch {
	case t == duration:
		d, err := time.ParseDuration(s)
		if !isString || err != nil {
			return nil, bad
		}
		return d, nil
	case reflect.PointerTo(t).Implements(text):
		made := reflect.New(t)
		u, ok := made.Interface().(encoding.TextUnmarshaler)
		if !isString || !ok {
			return nil, bad
		}
		if err := u.UnmarshalText([]byte(s)); err != nil {
			return nil, fmt.Errorf("%q is not valid: %w", s, err)
		}
		return made.Elem().Interface(), nil
	}
	f := reflect.ValueOf(value)
	ok := true
	switch t.Kind() {
	case reflect.String:
		ok = isString
	case reflect.Bool:
		ok = f.Kind() == reflect.Bool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		ok = (f.CanInt() && !reflect.Zero(t).OverflowInt(f.Int())) || (f.CanUint() && f.Uint() <= math.MaxInt64 && !reflect.Zero(t).OverflowInt(int64(f.Uint()))) //nolint:gosec // compared first
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		ok = (f.CanInt() && f.Int() >= 0 && !reflect.Zero(t).OverflowUint(uint64(f.Int()))) || (f.CanUint() && !reflect.Zero(t).OverflowUint(f.Uint())) //nolint:gosec // compared first
	case reflect.Float32, reflect.Float64:
		ok = f.CanFloat() || f.CanInt() || f.CanUint()
	case reflect.Slice, reflect.Array:
		ok = f.Kind() == reflect.Slice
	case reflect.Struct, reflect.Map:
		ok = f.Kind() == reflect.Map
	default: // interfaces take anything
	}
	if !ok {
		return nil, bad
	}
	return value, nil
}

// expected says in words what a type holds.
func expected(t reflect.Type) string {
	if t == duration {
		return `a duration such as "500ms" or "1m30s"`
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Int8, reflect.Int16, reflect.Int32:
		limit := int64(1) << (t.Bits() - 1)
		return fmt.Sprintf("a whole number from %d to %d", -limit, limit-1)
	case reflect.Uint, reflect.Uint64:
		return "a whole number, not negative"
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return fmt.Sprintf("a whole number from 0 to %d", uint64(1)<<t.Bits()-1)
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Struct, reflect.Map:
		if reflect.PointerTo(t).Implements(text) {
			return "text"
		}
		return "a mapping of keys to values"
	default:
		return "text"
	}
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		return "the text " + strconv.Quote(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a mapping"
	default:
		return fmt.Sprint(v)
	}
}

// missing finds the first required field that is empty.
func missing(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return missing(v.Elem(), path)
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := missing(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for f, value := range v.Fields() {
			if !f.IsExported() {
				continue
			}
			if squashed(f) {
				if err := missing(value, path); err != nil {
					return err
				}
				continue
			}
			key := join(path, name(f))
			if f.Tag.Get("config") == "required" && empty(value) {
				return &Error{Key: key, Problem: "is missing: must be " + expected(deref(f.Type))}
			}
			if err := missing(value, key); err != nil {
				return err
			}
		}
	default:
	}
	return nil
}

// empty reports whether a value is zero, or a list or mapping of nothing.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	default:
		return v.IsZero()
	}
}

// unknown is the error of a key that the struct does not have.
func unknown(t reflect.Type, path string) error {
	parent, last := "", path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		parent, last = path[:i], path[i+1:]
	}
	problem := "there is no such key"
	if keys := keysAt(t, parent); len(keys) > 0 {
		best := slices.MinFunc(keys, func(a, b string) int { return distance(a, last) - distance(b, last) })
		if distance(best, last) <= max(2, len(last)/3) {
			problem += fmt.Sprintf("; did you mean %q?", best)
		} else {
			problem += "; there are " + strings.Join(keys, ", ")
		}
	}
	return &Error{Key: path, Problem: problem}
}

// keysAt are the keys of the struct at a path.
func keysAt(t reflect.Type, path string) []string {
	t = deref(t)
	for part := range strings.SplitSeq(path, ".") {
		if part == "" {
			continue
		}
		key, _, _ := strings.Cut(part, "[")
		if t.Kind() != reflect.Struct {
			return nil
		}
		fields := fieldsOf(t)
		i := slices.IndexFunc(fields, func(f reflect.StructField) bool { return name(f) == key })
		if i < 0 {
			return nil
		}
		t = deref(fields[i].Type)
		for t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = deref(t.Elem())
		}
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for _, f := range fieldsOf(t) {
		keys = append(keys, name(f))
	}
	return keys
}

// fieldsOf are the exported fields of a struct, in place of a squashed one its fields.
func fieldsOf(t reflect.Type) []reflect.StructField {
	var all []reflect.StructField
	for f := range t.Fields() {
		switch {
		case !f.IsExported():
		case squashed(f):
			all = append(all, fieldsOf(f.Type)...)
		default:
			all = append(all, f)
		}
	}
	return all
}

func squashed(f reflect.StructField) bool { return f.Anonymous && f.Tag.Get(tag) == ",squash" }

func name(f reflect.StructField) string {
	if n, _, _ := strings.Cut(f.Tag.Get(tag), ","); n != "" {
		return n
	}
	return f.Name
}

func deref(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// distance counts the characters to add, drop or change to make b of a (Levenshtein 1966).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
