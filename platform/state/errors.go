package state

import "errors"

var (
	// ErrDeleted says that the record or its user does not exist any more, or never did; ids are never used again.
	ErrDeleted = errors.New("deleted")
	// ErrTooLarge says that the record or the event would exceed its bound.
	ErrTooLarge = errors.New("too large")
	// ErrMalformed says that an event or a State cannot be what a correct replica sends.
	ErrMalformed = errors.New("malformed")
)
