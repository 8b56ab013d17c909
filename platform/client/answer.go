package client

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"

	"antipode.example/platform/fault"
)

// problemMost is how much of an answer is looked at for why it was refused.
const problemMost = 64 << 10

// verdict is what an answer means for whether the request is tried elsewhere.
type verdict int

const (
	final    verdict = iota // another region would say the same, or the request is done
	noEffect                // it had no effect here; another region may do it
	unknown                 // it may have had an effect; only what may be done twice is tried elsewhere
)

// judge reads why a request was refused. The answer can be read again after it.
func judge(resp *http.Response) verdict {
	switch resp.StatusCode {
	case http.StatusConflict, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
	default:
		return final
	}
	switch reason(resp) {
	case fault.NoQuorum, fault.Clock, fault.SlotMoved, fault.Fenced, fault.Draining, fault.CatchingUp, fault.Unavailable, fault.TokenAhead:
		return noEffect
	case fault.UnknownOutcome, fault.Deadline:
		return unknown
	case "": // as of an answer to HEAD, or of a balancer that is not ours
		if resp.StatusCode > http.StatusInternalServerError {
			return unknown
		}
	default:
	}
	return final
}

// reason is the reason of a problem document; empty when the answer is none.
func reason(resp *http.Response) fault.Kind {
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("content-type")); err != nil || kind != fault.ProblemType {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, problemMost))
	body := resp.Body
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(text), broken{err}, body), body}
	var p fault.Problem
	if err != nil || json.Unmarshal(text, &p) != nil {
		return ""
	}
	return p.Reason
}

// broken gives the error that was met before, if any.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return 0, io.EOF
}
