// Package fault is the closed set of ways in which a request can fail. Each Kind has one reason, one gRPC code, one HTTP status and one
// answer to "may I retry?"; they are mapped here and nowhere else.
package fault

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind classifies a fault. Callers switch on it, clients see its reason.
type Kind string

// The kinds, whose text is the machine-readable reason in google.rpc.ErrorInfo and in problem+json.
const (
	Invalid         Kind = "invalid"         // the request can never succeed; carries field violations
	Unauthenticated Kind = "unauthenticated" // no valid credentials
	Forbidden       Kind = "forbidden"       // valid credentials that do not allow this
	NotFound        Kind = "not_found"
	AlreadyExists   Kind = "already_exists"
	EtagMismatch    Kind = "etag_mismatch" // read, then retry
	KeyReused       Kind = "key_reused"    // the idempotency key came with another request before
	TokenAhead      Kind = "token_ahead"   // this region does not have what the causal token covers: later, elsewhere, or stale-ok
	TooLarge        Kind = "too_large"
	RateLimited     Kind = "rate_limited" // after Retry-After
	NoQuorum        Kind = "no_quorum"    // elsewhere or later
	Clock           Kind = "clock"        // elsewhere
	SlotMoved       Kind = "slot_moved"   // again
	Fenced          Kind = "fenced"       // elsewhere
	Draining        Kind = "draining"     // elsewhere
	CatchingUp      Kind = "catching_up"  // elsewhere; this region has forgotten something and fetches it
	Unavailable     Kind = "unavailable"  // something that the request needs does not answer; it had no effect; elsewhere or later
	UnknownOutcome  Kind = "unknown_outcome"
	Deadline        Kind = "deadline"
	Internal        Kind = "internal"
)

// Violation is one field that is wrong, and why.
type Violation struct {
	Field       string `json:"field"` // as the .proto names it: "user.phone_numbers[1]"; or the name of a header
	Description string `json:"description"`
}

// Error is a fault: a sentence for the caller, and the operator's detail, which never reaches the caller.
type Error struct {
	Kind       Kind
	Message    string
	Violations []Violation
	// RetryAfter is when a retry makes sense; 0 when that is not known. It is told to the caller in whole seconds, rounded up.
	RetryAfter time.Duration
	Cause      error
}

// New makes a fault with a message for the caller.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Because adds the operator's detail and returns e.
func (e *Error) Because(cause error) *Error {
	e.Cause = cause
	return e
}

// maxText bounds what a violation says: descriptions quote what callers sent, and an error that is too long is no answer at all over gRPC.
const maxText = 256

// With adds a field violation and returns e. Field and description are cut after 256 bytes.
func (e *Error) With(field, format string, args ...any) *Error {
	e.Violations = append(e.Violations, Violation{Field: short(field), Description: short(fmt.Sprintf(format, args...))})
	return e
}

func short(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

// After says when a retry makes sense and returns e.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error is for logs: message and cause.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Kind, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Kind, e.Message)
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether an error is, or wraps, a fault of one of these kinds.
func Is(err error, kinds ...Kind) bool {
	var f *Error
	return errors.As(err, &f) && slices.Contains(kinds, f.Kind)
}
