package fault

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// ProblemType is the media type of a problem document (RFC 9457).
const ProblemType = "application/problem+json"

// Problem is the problem document of a fault.
type Problem struct {
	Type       string      `json:"type"` // a name, not an address to fetch: one for each kind
	Title      string      `json:"title"`
	Status     int         `json:"status"`
	Detail     string      `json:"detail"`
	Reason     Kind        `json:"reason"`
	Violations []Violation `json:"violations,omitempty"`
	RequestID  string      `json:"requestId,omitempty"`
}

// Problem is e as a document. status replaces the kind's own HTTP status when it is not 0: HTTP has more ways to say "never" than there are
// kinds (405, 415).
func (e *Error) Problem(requestID string, status int) Problem {
	title := e.Kind.Title()
	if status == 0 {
		status = e.Kind.HTTPStatus()
	} else if status != e.Kind.HTTPStatus() {
		title = http.StatusText(status)
	}
	return Problem{
		Type:       "https://" + Domain + "/problems/" + string(e.Kind),
		Title:      title,
		Status:     status,
		Detail:     e.Message,
		Reason:     e.Kind,
		Violations: e.Violations[:min(len(e.Violations), maxViolations)],
		RequestID:  requestID,
	}
}

// WriteProblem answers an HTTP request with e, Retry-After included; status as for Problem. An error is one of the connection.
func (e *Error) WriteProblem(w http.ResponseWriter, requestID string, status int) error {
	p := e.Problem(requestID, status)
	body, err := json.Marshal(p)
	if err != nil {
		return err // strings always encode
	}
	h := w.Header()
	h.Set("Content-Type", ProblemType)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.RetryAfter+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(p.Status)
	_, err = w.Write(body)
	return err
}
