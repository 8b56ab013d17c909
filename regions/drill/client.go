package drill

import (
	"errors"
	"net/http"

	"antipode.example/regions/caller"
)

// Region is where a region takes requests.
type Region = caller.Region

// outcome is what an answer to a write means, and why.
func outcome(a caller.Answer, err error) (Outcome, string) {
	switch {
	case errors.Is(err, caller.ErrNotSent):
		return Refused, "not_sent"
	case err != nil:
		return Unknown, "broken"
	case a.Status == http.StatusOK:
		return Acked, ""
	}
	reason := a.Reason()
	// A balancer answers 502 and 504 without knowing what the instance did.
	if reason == "unknown_outcome" || a.Status == http.StatusBadGateway || a.Status == http.StatusGatewayTimeout || reason == "" {
		return Unknown, reason
	}
	return Refused, reason
}

// profile is what the checker looks at.
type profile struct {
	ID          string `json:"id"`
	FirstName   string `json:"firstName"`
	LastName    string `json:"lastName"`
	DisplayName string `json:"displayName"`
	Email       string `json:"email"`
}

func (p profile) field(name string) string {
	switch name {
	case "firstName":
		return p.FirstName
	case "lastName":
		return p.LastName
	case "displayName":
		return p.DisplayName
	}
	panic("drill: unknown field " + name) // a mistake in this package
}
