package pg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"antipode.example/platform/fault"
)

// Stage says how far a transaction had come when it failed.
type Stage int

// The stages.
const (
	// Uncommitted: no COMMIT can have taken effect.
	Uncommitted Stage = iota
	// Committing: COMMIT may have taken effect.
	Committing
)

// ErrNotOnStandby: the transaction is committed on the primary, but the wait for its synchronous standby was cut short.
var ErrNotOnStandby = errors.New("the wait for the synchronous standby was cut short")

// Fault is the one place where driver errors become faults. A fault that is already in err's chain stays what it is. The kinds:
//
//   - UnknownOutcome: everything at stage Committing, except an error that the server reports instead of committing
//   - Deadline: the context ended, and nothing was committed
//   - Unavailable: nothing was committed, and the same request can succeed elsewhere or later: no connection, a node that starts, stops or is not
//     the primary, time-outs of the server (statement, lock, idle), deadlocks, conflicts with recovery, no memory, disk or connections left
//   - Internal: everything else; it is a defect
func Fault(doing string, stage Stage, err error) error {
	if err == nil {
		return nil
	}
	if f := (*fault.Error)(nil); errors.As(err, &f) {
		return err
	}
	cause := fmt.Errorf("%s: %w", doing, err)
	if errors.Is(err, ErrNotOnStandby) {
		return fault.New(fault.UnknownOutcome, "the write may or may not last").Because(cause)
	}
	pgErr := (*pgconn.PgError)(nil)
	isPg := errors.As(err, &pgErr)
	if stage == Committing && (!isPg || pgErr.SeverityUnlocalized != "ERROR") {
		return fault.New(fault.UnknownOutcome, "it is not known whether the write took effect").Because(cause)
	}
	connectErr := (*pgconn.ConnectError)(nil)
	switch {
	case errors.As(err, &connectErr): // before the contexts: connecting has a time-out of its own, and the caller's may not be over
		return fault.New(fault.Unavailable, "the database does not answer").Because(cause)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fault.New(fault.Deadline, "the request ran out of time").Because(cause)
	case isPg && transient(pgErr.Code):
		return fault.New(fault.Unavailable, "the database cannot serve the request now").Because(cause)
	case !isPg && connectionLost(err):
		return fault.New(fault.Unavailable, "the database does not answer").Because(cause)
	}
	return fault.New(fault.Internal, "internal error").Because(cause)
}

// Repeatable reports whether err is a fault of a transaction that surely had no effect because it collided with another one: a deadlock or a
// serialization failure. Repeating it at once makes sense.
func Repeatable(err error) bool {
	f, pgErr := (*fault.Error)(nil), (*pgconn.PgError)(nil)
	return errors.As(err, &f) && f.Kind == fault.Unavailable && errors.As(err, &pgErr) &&
		(pgErr.Code == pgerrcode.DeadlockDetected || pgErr.Code == pgerrcode.SerializationFailure)
}

func transient(code string) bool {
	switch {
	case pgerrcode.IsConnectionException(code), pgerrcode.IsInsufficientResources(code), pgerrcode.IsOperatorIntervention(code),
		pgerrcode.IsSystemError(code), changesPrimary(code):
		return true
	}
	switch code {
	case pgerrcode.DeadlockDetected, pgerrcode.SerializationFailure, pgerrcode.LockNotAvailable, pgerrcode.IdleInTransactionSessionTimeout:
		return true
	}
	return false
}

// changesPrimary reports whether a server that says this is not, or soon will not be, the primary.
func changesPrimary(code string) bool {
	switch code {
	case pgerrcode.ReadOnlySQLTransaction, pgerrcode.AdminShutdown, pgerrcode.CrashShutdown, pgerrcode.CannotConnectNow:
		return true
	}
	return false
}

// connectionLost reports whether err comes from the connection rather than from what was asked.
func connectionLost(err error) bool {
	netErr := net.Error(nil)
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, puddle.ErrClosedPool) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}
