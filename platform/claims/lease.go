package claims

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lease is the lease under which reservations are made just now. Granting one costs a round trip between regions, so those of a quarter of its life share it;
// it is never renewed.
type lease struct {
	turn chan struct{} // holds one token while somebody works on what follows
	id   clientv3.LeaseID
	till time.Time
}

func (l *lease) get(ctx context.Context, etcd *clientv3.Client) (clientv3.LeaseID, error) {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if start := time.Now(); l.id == 0 || start.After(l.till) {
		r, err := etcd.Grant(ctx, int64(LeaseTime/time.Second))
		if err != nil {
			return 0, err
		}
		l.id, l.till = r.ID, start.Add(LeaseTime/4)
	}
	return l.id, nil
}

// forget drops a lease that the cluster does not know.
func (l *lease) forget(id clientv3.LeaseID) {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if l.id == id {
		l.id = 0
	}
}
