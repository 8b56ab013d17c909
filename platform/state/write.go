package state

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/causal"
	"antipode.example/platform/hlc"
	"antipode.example/platform/record"
)

// Draft is a local write in the making. It is valid until the function that got it returns.
type Draft struct {
	engine *Engine
	user   *User
	now    time.Time
	ops    map[Key]*op
}

// op is what the draft does to one record.
type op struct {
	after   proto.Message
	touched []string
	deleted bool
}

// Get returns a copy of the record's message to change and put back, and whether there is such a record; an empty message if not. A deleted record, and
// every record of a deleted user, is not there.
func (d *Draft) Get(k Key) (proto.Message, bool, error) {
	if o := d.ops[k]; o != nil && !o.deleted && !d.grave() {
		return proto.Clone(o.after), true, nil
	}
	rec := d.Record(k)
	if rec == nil || d.grave() || d.ops[k] != nil {
		msg, err := d.engine.Registry.New(k.Type)
		if err != nil {
			return nil, false, fmt.Errorf("read %s: %w", k, err)
		}
		return msg, false, nil
	}
	msg, err := d.engine.Registry.Decode(rec)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", k, err)
	}
	return msg, true, nil
}

// Record is the stored copy behind Get (for etags), as it was before this draft; nil when it is not there. It must not be changed.
func (d *Draft) Record(k Key) *recordv1.Record {
	rec := d.user.Records[k]
	if rec.GetDeleted() != nil || d.user.Grave() {
		return nil
	}
	return rec
}

// Now is the wall time of the write, for fields such as update_time.
func (d *Draft) Now() time.Time { return d.now }

// Dot is the name that the write will have, if it puts or deletes anything.
func (d *Draft) Dot() causal.Dot {
	return causal.Dot{Replica: d.engine.Replica, N: d.user.Vector[d.engine.Replica] + 1}
}

// Vector is what the user's copy has seen before the write. It must not be changed.
func (d *Draft) Vector() causal.Vector { return d.user.Vector }

// Put writes a record's new message; see record.Registry.Apply for touched. It refuses writes to deleted records and users (ErrDeleted). A record
// that is put twice gets the last message, and everything that was touched.
func (d *Draft) Put(k Key, after proto.Message, touched ...string) error {
	recordType, err := d.engine.Registry.TypeOf(after)
	if err != nil {
		return fmt.Errorf("put %s: %w", k, err)
	}
	if recordType != k.Type {
		return fmt.Errorf("put %s: the message is a %q", k, recordType)
	}
	if k.ID.Slot() != d.user.ID.Slot() {
		return fmt.Errorf("put %s: the id is not in the slot of user %s", k, d.user.ID)
	}
	o := d.ops[k]
	if d.grave() || d.user.Records[k].GetDeleted() != nil || o != nil && o.deleted {
		return fmt.Errorf("put %s: %w", k, ErrDeleted)
	}
	if o == nil {
		o = &op{}
		d.ops[k] = o
	}
	o.after = proto.Clone(after)
	o.touched = append(o.touched, touched...)
	return nil
}

// Delete deletes a record; deleting the user's own record makes the grave. Deleting what is not there is ErrDeleted.
func (d *Draft) Delete(k Key) error {
	o := d.ops[k]
	if d.grave() || o != nil && o.deleted || o == nil && d.Record(k) == nil {
		return fmt.Errorf("delete %s: %w", k, ErrDeleted)
	}
	d.ops[k] = &op{deleted: true}
	return nil
}

// grave reports whether the user is deleted, by this draft too.
func (d *Draft) grave() bool {
	if d.user.Grave() {
		return true
	}
	for k, o := range d.ops {
		if k.ID == d.user.ID && o.deleted {
			return true
		}
	}
	return false
}

// Write runs change on a draft and, if it put or deleted anything, applies it as this replica's next write: u changes, and the event to publish is
// returned. When change puts nothing the event is nil and u is unchanged; when it fails, or a bound is exceeded (ErrTooLarge), u is unchanged and the error returned.
// The event shares its records with u; neither may be changed in place.
func (e *Engine) Write(u *User, o WriteOptions, change func(*Draft) error) (*replicationv1.Event, error) {
	u.prepare()
	d := &Draft{engine: e, user: u, now: o.Now, ops: map[Key]*op{}}
	if err := change(d); err != nil {
		return nil, err
	}
	if len(d.ops) == 0 {
		return nil, nil
	}
	w := record.Write{
		Dot:   d.Dot(),
		Stamp: hlc.Next(o.Now, u.MaxStamp, o.Seen),
		Keyed: o.Keyed,
	}
	vector := u.Vector.Clone()
	vector[e.Replica] = w.Dot.N
	ev := &replicationv1.Event{
		Service: e.Service, Dot: w.Dot.Proto(), UserId: u.ID[:], Slot: uint32(u.ID.Slot()), After: vector.Proto(),
		MaxStamp: uint64(w.Stamp), CommitUnixMs: o.Now.UnixMilli(),
	}
	keys := slices.SortedFunc(maps.Keys(d.ops), Key.Compare)
	for _, k := range keys {
		rec, err := e.next(u.Records[k], k, d.ops[k], w)
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", k, err)
		}
		if size := proto.Size(rec); size > MaxRecordBytes {
			return nil, fmt.Errorf("write %s: %w: %d bytes of at most %d", k, ErrTooLarge, size, MaxRecordBytes)
		}
		ev.Records = append(ev.Records, rec)
	}
	if size := proto.Size(ev); size > MaxEventBytes {
		return nil, fmt.Errorf("write %d records: %w: %d bytes of at most %d", len(keys), ErrTooLarge, size, MaxEventBytes)
	}
	for i, k := range keys {
		u.Records[k] = ev.Records[i]
		u.Changed[k] = true
	}
	u.Vector, u.MaxStamp = vector, w.Stamp
	return ev, nil
}

func (e *Engine) next(old *recordv1.Record, k Key, o *op, w record.Write) (*recordv1.Record, error) {
	if !o.deleted {
		return e.Registry.Apply(old, k.ID, o.after, w, o.touched...)
	}
	if old == nil { // put and deleted in one draft
		old = &recordv1.Record{Type: k.Type, Id: k.ID[:]}
	}
	return e.Registry.Delete(old, w)
}
