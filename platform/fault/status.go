package fault

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of google.rpc.ErrorInfo: reasons are unique within it.
const Domain = "antipode.example"

// maxViolations bounds what one answer names; a request with more is refused all the same.
const maxViolations = 20

type mapping struct {
	code  codes.Code
	http  int
	title string
}

// mapped is the table: what a kind is in gRPC, in HTTP, and in words that do not change.
func mapped(k Kind) mapping {
	switch k {
	case Invalid:
		return mapping{codes.InvalidArgument, http.StatusBadRequest, "The request is not valid"}
	case Unauthenticated:
		return mapping{codes.Unauthenticated, http.StatusUnauthorized, "Credentials are missing or not valid"}
	case Forbidden:
		return mapping{codes.PermissionDenied, http.StatusForbidden, "The credentials do not allow this"}
	case NotFound:
		return mapping{codes.NotFound, http.StatusNotFound, "There is no such resource"}
	case AlreadyExists:
		return mapping{codes.AlreadyExists, http.StatusConflict, "It exists already"}
	case EtagMismatch:
		return mapping{codes.Aborted, http.StatusPreconditionFailed, "The resource has changed"}
	case KeyReused:
		return mapping{codes.FailedPrecondition, http.StatusUnprocessableEntity, "The idempotency key belongs to another request"}
	case TokenAhead:
		return mapping{codes.FailedPrecondition, http.StatusConflict, "This region does not have yet what the token covers"}
	case TooLarge:
		return mapping{codes.ResourceExhausted, http.StatusRequestEntityTooLarge, "The request is too large"}
	case RateLimited:
		return mapping{codes.ResourceExhausted, http.StatusTooManyRequests, "Too many requests"}
	case NoQuorum:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "Too few regions can be reached"}
	case Clock:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "This region's clock cannot be trusted"}
	case SlotMoved:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "The data are moving"}
	case Fenced:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "This region has been taken out of service"}
	case Draining:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "This region is being taken out of service"}
	case CatchingUp:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "This region is fetching what it has missed"}
	case Unavailable:
		return mapping{codes.Unavailable, http.StatusServiceUnavailable, "The service is unavailable"}
	case UnknownOutcome:
		return mapping{codes.Unknown, http.StatusInternalServerError, "It is not known whether the request had an effect"}
	case Deadline:
		return mapping{codes.DeadlineExceeded, http.StatusGatewayTimeout, "The deadline has passed"}
	case Internal:
	}
	return mapping{codes.Internal, http.StatusInternalServerError, "Internal error"}
}

// Code is the kind's gRPC code.
func (k Kind) Code() codes.Code { return mapped(k).code }

// HTTPStatus is the kind's HTTP status.
func (k Kind) HTTPStatus() int { return mapped(k).http }

// Title is the kind in words; it is the same for every occurrence.
func (k Kind) Title() string { return mapped(k).title }

// known reports whether k is one of the kinds: what is not maps like Internal, and only Internal may.
func (k Kind) known() bool { return k == Internal || mapped(k) != mapped(Internal) }

// GRPCStatus is what a gRPC client gets: code, message, ErrorInfo with the kind as reason, the violations as BadRequest, RetryAfter as
// RetryInfo. The cause is left out. The grpc package finds this method by itself, so a handler may return an *Error as it is.
func (e *Error) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(e.Kind), Domain: Domain}}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations[:min(len(e.Violations), maxViolations)] {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
		}
		details = append(details, bad)
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	st := status.New(e.Kind.Code(), e.Message)
	if detailed, err := st.WithDetails(details...); err == nil {
		return detailed
	}
	return st // text that is not UTF-8 cannot be encoded; the code still holds
}

// From makes a fault of any error; nil stays nil. A fault in the chain of err is the answer. A gRPC status that is err itself keeps its
// meaning; one that was wrapped on the way is another service's answer to us, not ours to the caller, and counts as internal. An error
// nobody has classified is internal.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if !e.Kind.known() {
			return New(Internal, "internal error").Because(err)
		}
		if error(e) != err { //nolint:errorlint // asks whether it was wrapped
			wrapped := *e
			wrapped.Cause = err // with what was being done
			return &wrapped
		}
		return e
	}
	if _, ok := err.(interface{ GRPCStatus() *status.Status }); ok {
		return FromStatus(err)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return New(Deadline, "the deadline passed before the answer was ready").Because(err)
	case errors.Is(err, context.Canceled):
		return New(Deadline, "the request was cancelled before the answer was ready").Because(err)
	}
	return New(Internal, "internal error").Because(err)
}

// FromStatus reads the fault out of an error of a gRPC client; nil stays nil. Without ErrorInfo of our domain the code decides, and
// UNAVAILABLE is then an unknown outcome: grpc says it also when a connection breaks after the request has left.
func FromStatus(err error) *Error {
	if err == nil {
		return nil
	}
	var already *Error
	if errors.As(err, &already) {
		return already
	}
	st, _ := status.FromError(err)
	e := New(kindOf(st.Code()), "%s", st.Message()).Because(err)
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if k := Kind(d.GetReason()); d.GetDomain() == Domain && k.known() {
				e.Kind = k
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// kindOf is the kind of a status that says nothing but its code.
func kindOf(c codes.Code) Kind {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return Invalid
	case codes.Unauthenticated:
		return Unauthenticated
	case codes.PermissionDenied:
		return Forbidden
	case codes.NotFound, codes.Unimplemented: // what is not implemented is not there
		return NotFound
	case codes.AlreadyExists:
		return AlreadyExists
	case codes.ResourceExhausted: // grpc's own limits on sizes
		return TooLarge
	case codes.DeadlineExceeded, codes.Canceled:
		return Deadline
	case codes.Unavailable, codes.Unknown:
		return UnknownOutcome
	default:
		return Internal
	}
}
