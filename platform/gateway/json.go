package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"antipode.example/platform/fault"
)

// strictJSON is protojson that refuses unknown fields and what follows the document, and says where the error is.
type strictJSON struct{ *runtime.JSONPb }

// NewDecoder reads one document, the whole of r. An empty one is io.EOF, which generated code takes for an absent body.
func (j strictJSON) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(b)) == 0 {
			return io.EOF
		}
		return j.Unmarshal(b, v)
	})
}

// Unmarshal decodes into a message, or into a pointer to one.
func (j strictJSON) Unmarshal(b []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		p := reflect.ValueOf(v)
		if p.Kind() != reflect.Pointer || p.Elem().Kind() != reflect.Pointer {
			return j.JSONPb.Unmarshal(b, v)
		}
		if p.Elem().IsNil() {
			p.Elem().Set(reflect.New(p.Elem().Type().Elem()))
		}
		if m, ok = p.Elem().Interface().(proto.Message); !ok {
			return j.JSONPb.Unmarshal(b, v)
		}
	}
	if err := (protojson.UnmarshalOptions{}).Unmarshal(b, m); err != nil {
		return describe(b, err)
	}
	return nil
}

// bodyErrorPrefix begins the text of an error of strictJSON: generated code keeps the text of what a decoder returns, and nothing else.
// What follows is the quoted JSON path and the description.
const bodyErrorPrefix = "antipode body: "

// position is where protojson says that an error is; the rest of its text is what is wrong there.
var position = regexp.MustCompile(`^proto:\s*(syntax error )?\(line (\d+):(\d+)\): (.*)$`)

// describe makes a text for bodyFault of an error of protojson.
func describe(b []byte, err error) error {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ") // protojson varies its spaces on purpose
	m := position.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("%s%q: is not valid: %s", bodyErrorPrefix, "", strings.TrimPrefix(text, "proto: "))
	}
	line, _ := strconv.Atoi(m[2])
	column, _ := strconv.Atoi(m[3])
	if m[1] != "" && !json.Valid(b) {
		return fmt.Errorf("%s%q: is not JSON: line %d, column %d: %s", bodyErrorPrefix, "", line, column, m[4])
	}
	return fmt.Errorf("%s%q: %s", bodyErrorPrefix, jsonPath(b, line, column), m[4])
}

// jsonPath is the path of the value, or of the member name, that begins at a line and a column (in bytes, from 1).
func jsonPath(b []byte, line, column int) string {
	start := 0 // of the line
	for range line - 1 {
		start += bytes.IndexByte(b[start:], '\n') + 1
	}
	offset := int64(start + column - 1)
	type frame struct {
		array bool
		index int    // of the current element
		key   string // of the current member
		value bool   // the member's name has been read, its value comes next
	}
	var stack []frame
	path := func() string {
		var p strings.Builder
		for _, f := range stack {
			switch {
			case f.array:
				fmt.Fprintf(&p, "[%d]", f.index)
			case f.key != "":
				if p.Len() > 0 {
					p.WriteByte('.')
				}
				p.WriteString(f.key)
			}
		}
		return p.String()
	}
	done := func() { // a value has ended
		if n := len(stack); n > 0 {
			stack[n-1].index++
			stack[n-1].value = false
		}
	}
	d := json.NewDecoder(bytes.NewReader(b))
	for {
		t, err := d.Token()
		if err != nil {
			return path()
		}
		delim, _ := t.(json.Delim)
		top := len(stack) - 1
		isName := delim == 0 && top >= 0 && !stack[top].array && !stack[top].value
		if isName {
			stack[top].key, _ = t.(string)
		}
		if d.InputOffset() > offset {
			return path()
		}
		switch {
		case isName:
			stack[top].value = true
		case delim == '{' || delim == '[':
			stack = append(stack, frame{array: delim == '['})
		case delim != 0:
			stack = stack[:top]
			done()
		default:
			done()
		}
	}
}

// bodyFault is the fault of an error of strictJSON; the context is the one that generated code made for the call.
func bodyFault(ctx context.Context, text string) *fault.Error {
	quoted, err := strconv.QuotedPrefix(text)
	if err != nil {
		return fault.New(fault.Invalid, "the body is not valid")
	}
	path, _ := strconv.Unquote(quoted)
	description := strings.TrimPrefix(text[len(quoted):], ": ")
	if path == "" {
		return fault.New(fault.Invalid, "the body %s", description)
	}
	return fault.New(fault.Invalid, "the body is not valid").With(fieldPath(ctx, path), "%s", description)
}

// fieldPath is a path in a body's JSON as a path in the request message: names as in the .proto file, the body's own field in front.
func fieldPath(ctx context.Context, path string) string {
	method, ok := runtime.RPCMethod(ctx)
	if !ok {
		return path
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")))
	if err != nil {
		return path
	}
	md, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return path
	}
	pattern, _ := runtime.HTTPPathPattern(ctx)
	message := md.Input()
	if body := bodyField(md, pattern); body != "" && body != "*" {
		if f := message.Fields().ByName(protoreflect.Name(body)); f != nil && f.Message() != nil {
			return body + "." + protoNames(f.Message(), path)
		}
	}
	return protoNames(message, path)
}

// bodyField is the `body` of the method's HTTP rule for a path pattern.
func bodyField(md protoreflect.MethodDescriptor, pattern string) string {
	rule, _ := proto.GetExtension(md.Options(), annotations.E_Http).(*annotations.HttpRule)
	for _, r := range append([]*annotations.HttpRule{rule}, rule.GetAdditionalBindings()...) {
		for _, p := range []string{r.GetPost(), r.GetPatch(), r.GetPut(), r.GetDelete(), r.GetGet()} {
			if p == pattern {
				return r.GetBody()
			}
		}
	}
	return rule.GetBody()
}

// protoNames replaces JSON names in a path by those of the .proto file, as far as they are known.
func protoNames(m protoreflect.MessageDescriptor, path string) string {
	parts := strings.Split(path, ".")
	for i, part := range parts {
		if m == nil {
			break
		}
		name, index, _ := strings.Cut(part, "[")
		f := m.Fields().ByJSONName(name)
		if f == nil {
			f = m.Fields().ByName(protoreflect.Name(name))
		}
		if f == nil {
			break
		}
		parts[i] = string(f.Name())
		if index != "" {
			parts[i] += "[" + index
		}
		m = f.Message()
	}
	return strings.Join(parts, ".")
}

type queryKey struct{}

// strictQuery refuses query parameters that the request message does not have: grpc-gateway's parser leaves them out in silence, so that a
// misspelt page size would go unnoticed. It stands where the request message is known.
type strictQuery struct{ grpc.ClientConnInterface }

// Invoke checks the query, then calls.
func (q strictQuery) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if query, ok := ctx.Value(queryKey{}).(string); ok {
		if err := unknownParameter(query, method, args); err != nil {
			return err
		}
	}
	return q.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

func unknownParameter(query, method string, args any) error {
	m, ok := args.(proto.Message)
	if !ok {
		return errors.New("request is not a message")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return fault.New(fault.Invalid, "the query is not valid: %v", err)
	}
	elsewhere := takenElsewhere(method)
	for key := range values {
		name := strings.Split(key, ".")
		if slices.ContainsFunc(elsewhere, func(field string) bool { return field == "*" || key == field || strings.HasPrefix(key, field+".") }) {
			return fault.New(fault.Invalid, "the request is not valid").With(strings.ToValidUTF8(key, "�"), "it belongs in the path or the body, and would be ignored here")
		}
		if !utf8.ValidString(key) || !isField(m.ProtoReflect().Descriptor(), name) {
			return fault.New(fault.Invalid, "the request is not valid").With(strings.ToValidUTF8(key, "�"), "there is no such query parameter")
		}
	}
	return nil
}

// takenElsewhere are the fields of a method's request that REST takes from the path or the body: grpc-gateway drops them from the query without a word.
func takenElsewhere(method string) []string {
	name := protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", "."))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil
	}
	rule, ok := proto.GetExtension(d.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok {
		return nil
	}
	var fields []string
	if rule.GetBody() != "" {
		fields = append(fields, rule.GetBody())
	}
	_, pattern, _ := strings.Cut(rulePath(rule), "/")
	for part := range strings.SplitSeq(pattern, "{") {
		if field, _, ok := strings.Cut(part, "}"); ok {
			field, _, _ = strings.Cut(field, "=")
			fields = append(fields, field)
		}
	}
	return fields
}

func rulePath(rule *annotations.HttpRule) string {
	for _, path := range []string{rule.GetGet(), rule.GetPost(), rule.GetPatch(), rule.GetPut(), rule.GetDelete()} {
		if path != "" {
			return path
		}
	}
	return ""
}

func isField(m protoreflect.MessageDescriptor, path []string) bool {
	for _, name := range path {
		if m == nil {
			return false
		}
		name, _, _ = strings.Cut(name, "[") // a map's key
		f := m.Fields().ByJSONName(name)
		if f == nil {
			f = m.Fields().ByName(protoreflect.Name(name))
		}
		if f == nil {
			return false
		}
		m = f.Message()
	}
	return true
}
