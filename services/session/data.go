package session

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"antipode.example/platform/copies"
	"antipode.example/platform/fault"
	"antipode.example/platform/state"
)

const (
	// MaxKeys bounds the keys that a client keeps with a session.
	MaxKeys = 100
	// MaxDataBytes bounds its keys and values together.
	MaxDataBytes = 64 << 10
	// maxBefore is how large a record may be that still takes data, in bytes. A record remembers every key that it ever had, and refreshes must always find room in it.
	maxBefore = state.MaxRecordBytes / 2
)

// Edit is a change of what a client keeps with a session.
type Edit struct {
	copies.Ref
	Set    map[string]string
	Remove []string
	Remote bool
}

// UpdateData changes what a client keeps with a session. Errors: not_found; invalid, for a session that has ended; too_large; token_ahead, when the session is not here but the caller has seen it.
func (s *Service) UpdateData(ctx context.Context, e Edit, seen copies.Seen) (Result, error) {
	return s.sessions.Write(ctx, copies.Write{Ref: e.Ref, Also: []state.Key{s.accounts.Key(e.User)}, Remote: e.Remote, Seen: seen, Do: func(d *state.Draft) error {
		rec, ended, err := s.draft(d, e.Ref)
		if err != nil {
			return err
		}
		if ended != "" {
			return fault.New(fault.Invalid, "the session has ended")
		}
		before := rec.GetData()
		var written bool
		if rec.Data, written = e.apply(before); !written {
			return nil
		}
		if err := fits(before, rec.GetData(), proto.Size(d.Record(s.sessions.Key(e.ID)))); err != nil {
			return err
		}
		return d.Put(s.sessions.Key(e.ID), rec, e.touched()...)
	}})
}

// apply reports, too, whether there is anything to write: a key that is set to the value that it has is written all the same, so that it wins over what is done with it elsewhere.
func (e Edit) apply(before map[string]string) (after map[string]string, written bool) {
	after = make(map[string]string, len(before)+len(e.Set))
	maps.Copy(after, before)
	for _, k := range e.Remove {
		delete(after, k)
	}
	written = len(e.Set) > 0 || len(after) < len(before)
	maps.Copy(after, e.Set)
	return after, written
}

func (e Edit) touched() []string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(e.Set)) {
		all = append(all, "data."+k)
	}
	return all
}

// fits refuses what is too much, unless it is less than before: two regions may each have added what fitted.
func fits(before, after map[string]string, record int) error {
	switch {
	case len(after) > MaxKeys && len(after) >= len(before):
		return fault.New(fault.TooLarge, "the session would keep %d keys, more than %d", len(after), MaxKeys)
	case bytesOf(after) > MaxDataBytes && bytesOf(after) >= bytesOf(before):
		return fault.New(fault.TooLarge, "the session would keep %d bytes, more than %d", bytesOf(after), MaxDataBytes)
	case record > maxBefore:
		return fault.New(fault.TooLarge, "the session has had too many different keys: keep them with a new one")
	}
	return nil
}

func bytesOf(data map[string]string) (n int) {
	for k, v := range data {
		n += len(k) + len(v)
	}
	return n
}
