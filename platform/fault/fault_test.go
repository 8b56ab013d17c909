package fault_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"antipode.example/platform/fault"
)

// TestTable is the table that clients are promised.
func TestTable(t *testing.T) {
	for kind, want := range map[fault.Kind]struct {
		code codes.Code
		http int
	}{
		fault.Invalid:         {codes.InvalidArgument, 400},
		fault.Unauthenticated: {codes.Unauthenticated, 401},
		fault.Forbidden:       {codes.PermissionDenied, 403},
		fault.NotFound:        {codes.NotFound, 404},
		fault.AlreadyExists:   {codes.AlreadyExists, 409},
		fault.EtagMismatch:    {codes.Aborted, 412},
		fault.KeyReused:       {codes.FailedPrecondition, 422},
		fault.TokenAhead:      {codes.FailedPrecondition, 409},
		fault.TooLarge:        {codes.ResourceExhausted, 413},
		fault.RateLimited:     {codes.ResourceExhausted, 429},
		fault.NoQuorum:        {codes.Unavailable, 503},
		fault.Clock:           {codes.Unavailable, 503},
		fault.SlotMoved:       {codes.Unavailable, 503},
		fault.Fenced:          {codes.Unavailable, 503},
		fault.Draining:        {codes.Unavailable, 503},
		fault.Unavailable:     {codes.Unavailable, 503},
		fault.UnknownOutcome:  {codes.Unknown, 500},
		fault.Deadline:        {codes.DeadlineExceeded, 504},
		fault.Internal:        {codes.Internal, 500},
	} {
		if kind.Code() != want.code || kind.HTTPStatus() != want.http {
			t.Errorf("%s is %s, %d, want %s, %d", kind, kind.Code(), kind.HTTPStatus(), want.code, want.http)
		}
		// What goes out as a status comes back as the same fault.
		sent := fault.New(kind, "because %d", 1).With("a.b", "wrong").With("c", "too").After(2 * time.Second).Because(io.EOF)
		got := fault.FromStatus(status.ErrorProto(status.Convert(sent).Proto()))
		if got.Kind != kind || got.Message != "because 1" || len(got.Violations) != 2 || got.Violations[0] != sent.Violations[0] || got.RetryAfter != 2*time.Second {
			t.Errorf("%s came back as %+v", kind, got)
		}
		if errors.Is(got, io.EOF) {
			t.Errorf("%s: the cause went out", kind)
		}
	}
}

func TestFrom(t *testing.T) {
	notFound := fault.New(fault.NotFound, "no such user")
	for _, tt := range []struct {
		name string
		err  error
		want fault.Kind
	}{
		{"fault", notFound, fault.NotFound},
		{"wrapped fault", fmt.Errorf("read user: %w", notFound), fault.NotFound},
		{"deadline", fmt.Errorf("query: %w", context.DeadlineExceeded), fault.Deadline},
		{"cancelled", context.Canceled, fault.Deadline},
		{"anything", io.EOF, fault.Internal},
		{"status", status.Error(codes.NotFound, "x"), fault.NotFound},
		{"another service's status", fmt.Errorf("ask peer: %w", status.Error(codes.NotFound, "x")), fault.Internal},
		{"made-up kind", fault.New("sorry", "x"), fault.Internal},
	} {
		got := fault.From(tt.err)
		if got.Kind != tt.want || !errors.Is(got, tt.err) {
			t.Errorf("%s: %v, want %s", tt.name, got, tt.want)
		}
	}
	if fault.From(nil) != nil || fault.FromStatus(nil) != nil {
		t.Error("nil is a fault")
	}
}

func TestFromForeignStatus(t *testing.T) {
	for code, want := range map[codes.Code]fault.Kind{
		codes.Unavailable: fault.UnknownOutcome, codes.Unknown: fault.UnknownOutcome, codes.Canceled: fault.Deadline,
		codes.Unimplemented: fault.NotFound, codes.ResourceExhausted: fault.TooLarge, codes.Aborted: fault.Internal, codes.Internal: fault.Internal,
	} {
		if got := fault.FromStatus(status.Error(code, "x")); got.Kind != want {
			t.Errorf("%s is %s, want %s", code, got.Kind, want)
		}
	}
}

func TestProblemGolden(t *testing.T) {
	w := httptest.NewRecorder()
	f := fault.New(fault.RateLimited, "at most %d requests a second", 5).After(1200 * time.Millisecond).Because(io.EOF)
	if err := f.WriteProblem(w, "r1", 0); err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"https://antipode.example/problems/rate_limited","title":"Too many requests","status":429,` +
		`"detail":"at most 5 requests a second","reason":"rate_limited","requestId":"r1"}`
	if w.Body.String() != want || w.Code != 429 || w.Header().Get("Retry-After") != "2" || w.Header().Get("Content-Type") != "application/problem+json" {
		t.Errorf("got %d %v\n%s\nwant\n%s", w.Code, w.Header(), w.Body, want)
	}
	if p := fault.New(fault.Invalid, "x").Problem("", 405); p.Status != 405 || p.Title != "Method Not Allowed" || p.Reason != fault.Invalid {
		t.Errorf("%+v", p)
	}
}

func TestViolationsAreBounded(t *testing.T) {
	f := fault.New(fault.Invalid, "x")
	for range 1000 {
		f = f.With("f", "bad")
	}
	if n := len(f.Problem("", 0).Violations); n != 20 {
		t.Errorf("%d violations in a problem", n)
	}
	if n := len(fault.FromStatus(f.GRPCStatus().Err()).Violations); n != 20 {
		t.Errorf("%d violations in a status", n)
	}
}

func TestIs(t *testing.T) {
	wrapped := fmt.Errorf("ask: %w", fault.New(fault.NotFound, "there is none"))
	for what, got := range map[string]bool{
		"one of the kinds": fault.Is(wrapped, fault.Invalid, fault.NotFound), "none of them": !fault.Is(wrapped, fault.Invalid), "no kinds": !fault.Is(wrapped), "another error": !fault.Is(errors.New("x"), fault.NotFound), "no error": !fault.Is(nil, fault.NotFound),
	} {
		if !got {
			t.Errorf("%s: wrong", what)
		}
	}
}
