package replicate

import (
	"context"
	"encoding/hex"

	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/fault"
	"antipode.example/platform/store"
)

func checkLetterName(field, name string) error {
	if b, err := hex.DecodeString(name); err != nil || len(b) != nameBytes {
		return fault.New(fault.Invalid, "the request is not valid").With(field, "%q is no name of a dead letter: those are %d hexadecimal digits", name, 2*nameBytes)
	}
	return nil
}

// DeadLetters answers a page of the dead letters.
func (s *Server) DeadLetters(ctx context.Context, req *replicationv1.DeadLettersRequest) (*replicationv1.DeadLettersResponse, error) {
	after := req.GetPageToken()
	if after != "" {
		if err := checkLetterName("page_token", after); err != nil {
			return nil, err
		}
	}
	limit := conflictsPage
	if n := req.GetPageSize(); n > 0 {
		limit = min(int(n), maxConflictsPage)
	}
	list, err := s.store.Letters(ctx, req.GetSettled(), after, limit)
	if err != nil {
		return nil, err
	}
	res := &replicationv1.DeadLettersResponse{}
	for _, l := range list {
		res.Letters = append(res.Letters, letterProto(l))
	}
	if len(list) == limit {
		res.NextPageToken = list[limit-1].Name
	}
	return res, nil
}

// ReplayDeadLetter tries one again.
func (s *Server) ReplayDeadLetter(ctx context.Context, req *replicationv1.ReplayDeadLetterRequest) (*replicationv1.ReplayDeadLetterResponse, error) {
	if err := checkLetterName("name", req.GetName()); err != nil {
		return nil, err
	}
	l, reason, err := s.replicator.Replay(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &replicationv1.ReplayDeadLetterResponse{Letter: letterProto(l), Reason: reason}, nil
}

// DropDeadLetter gives one up.
func (s *Server) DropDeadLetter(ctx context.Context, req *replicationv1.DropDeadLetterRequest) (*replicationv1.DropDeadLetterResponse, error) {
	if err := checkLetterName("name", req.GetName()); err != nil {
		return nil, err
	}
	l, err := s.replicator.Drop(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &replicationv1.DropDeadLetterResponse{Letter: letterProto(l)}, nil
}

func letterProto(l store.Letter) *replicationv1.DeadLetter {
	p := &replicationv1.DeadLetter{
		Name: l.Name, Region: l.Region, Topic: l.Topic, Partition: uint32(l.Partition), Offset: l.Offset, Error: l.Error, Bytes: uint32(l.Bytes), //nolint:gosec // counts
		CameUnixMs: l.CameAt.UnixMilli(), Settled: replicationv1.Settlement(l.Settled), //nolint:gosec // the same few numbers
	}
	if !l.User.IsZero() {
		p.UserId = l.User[:]
	}
	if l.Write.N > 0 {
		p.Write = l.Write.Proto()
	}
	if l.Settled != store.Unsettled {
		p.SettledUnixMs = l.SettledAt.UnixMilli()
	}
	return p
}
