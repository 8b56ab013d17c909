package record

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// Later is what a time of policy MAX becomes now, to the millisecond: the later of the two, for the clock of the region that set the first may be ahead. The first may be nil.
func Later(t *timestamppb.Timestamp, now time.Time) *timestamppb.Timestamp {
	if now = now.Truncate(time.Millisecond); t != nil && !now.After(t.AsTime()) {
		return t
	}
	return timestamppb.New(now)
}
