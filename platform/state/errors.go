package state

import "errors"

var (
	// ErrDeleted: the record or its user does not exist any more; ids are never used again.
	ErrDeleted = errors.New("deleted")
	// ErrTooLarge: the record or the event would exceed its bound.
	ErrTooLarge = errors.New("too large")
	// ErrMalformed: an event or a State cannot be what a correct replica sends.
	ErrMalformed = errors.New("malformed")
)
