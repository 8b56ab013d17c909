// Package lease divides work among the processes of one region: of those that ask for a lease, one holds it. Leases live in the region's
// own etcd and end within their TTL when the holder dies.
//
// The guarantee is about efficiency, not safety: for a moment two processes may both believe that they hold a lease (a holder that was stopped and goes on, a holder
// that cannot reach etcd). What they do under it must bear that. In return, losing etcd stops no work: a holder that cannot renew goes on until it learns
// that another has taken over. Held.Confirmed tells the difference.
//
//	waiting ──acquired──▶ confirmed ──session lost──▶ unconfirmed ──acquired again──▶ confirmed
//	   ▲                      │                            │
//	   └────── work ended ────┴──── another holds it ──────┘
package lease

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

const (
	// callTimeout bounds each request to etcd.
	callTimeout = 3 * time.Second
	// retryPause is between attempts after an error, and after work that ended by itself.
	retryPause = 500 * time.Millisecond
)

// Config is where leases live.
type Config struct {
	// Endpoints of the region's etcd.
	Endpoints []string
	// Prefix of all keys, for example "/antipode/user/". Processes that share work use the same.
	Prefix string
	// Owner names this process for people, for example "a".
	Owner string
	// TTL is how long a lease outlives its holder; whole seconds, 0 means 3 s.
	TTL    time.Duration
	Logger *slog.Logger
}

// Leases is this process's share in a region's leases. It is safe for concurrent use.
type Leases struct {
	client *clientv3.Client
	prefix string
	owner  string // unique to this process
	ttl    int64
	logger *slog.Logger

	mu      sync.Mutex
	session *concurrency.Session
}

// Open makes a client; it connects when first used. Close it after every Hold and Divide has returned.
func Open(cfg Config) (*Leases, error) {
	if cfg.TTL <= 0 {
		cfg.TTL = 3 * time.Second
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, Logger: zap.NewNop(),
		DialTimeout: callTimeout, DialKeepAliveTime: 2 * time.Second, DialKeepAliveTimeout: 2 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("open the region's etcd: %w", err)
	}
	return &Leases{
		client: client, prefix: cfg.Prefix, owner: cfg.Owner + "." + rand.Text()[:8],
		ttl: int64(max(1, cfg.TTL.Seconds())), logger: cfg.Logger,
	}, nil
}

// Close gives every lease back that is still held.
func (l *Leases) Close() error {
	l.mu.Lock()
	s := l.session
	l.session = nil
	l.mu.Unlock()
	if s != nil {
		s.Orphan()
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		_, _ = l.client.Revoke(ctx, s.Lease()) // else it ends by itself, within the TTL
	}
	if err := l.client.Close(); err != nil {
		return fmt.Errorf("close the client of the region's etcd: %w", err)
	}
	return nil
}

// live returns the session that all leases of this process hang on, and makes one if there is none that lives.
func (l *Leases) live(ctx context.Context) (*concurrency.Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		select {
		case <-l.session.Done():
		default:
			return l.session, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	granted, err := l.client.Grant(ctx, l.ttl)
	if err != nil {
		return nil, fmt.Errorf("ask etcd for a lease: %w", err)
	}
	s, err := concurrency.NewSession(l.client, concurrency.WithLease(granted.ID), concurrency.WithTTL(int(l.ttl)))
	if err != nil {
		return nil, fmt.Errorf("keep the lease alive: %w", err)
	}
	l.session = s
	return s, nil
}

// Held is a lease in the hands of the work that runs under it.
type Held struct{ confirmed atomic.Bool }

// Confirmed reports whether etcd has said within the TTL that this process is the holder. Work that would take something away from another holder asks first.
func (h *Held) Confirmed() bool { return h.confirmed.Load() }

// Hold waits for the lease, runs work under it, and does so again whenever the lease was lost or work returned, until ctx ends; then it returns nil. The context of work
// ends with ctx and when another process has taken the lease. An error of work is logged here.
func (l *Leases) Hold(ctx context.Context, name string, work func(context.Context, *Held) error) {
	for ctx.Err() == nil {
		session, err := l.await(ctx, name)
		if err != nil {
			if ctx.Err() == nil {
				l.logger.WarnContext(ctx, "lease cannot be acquired", "lease", name, "error", err)
			}
			pause(ctx, retryPause)
			continue
		}
		l.under(ctx, name, session, work)
		l.release(ctx, name)
		pause(ctx, retryPause)
	}
}

// under runs work until it returns, and watches over the lease meanwhile.
func (l *Leases) under(ctx context.Context, name string, session *concurrency.Session, work func(context.Context, *Held) error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	held := &Held{}
	held.confirmed.Store(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := work(ctx, held); err != nil && ctx.Err() == nil {
			l.logger.WarnContext(ctx, "work under a lease ended", "lease", name, "error", err)
		}
	}()
	for {
		select {
		case <-done:
			return
		case <-session.Done():
		}
		held.confirmed.Store(false)
		l.logger.WarnContext(ctx, "lease is not confirmed any more; work goes on", "lease", name)
		next, mine := l.again(ctx, name, done)
		if !mine {
			cancel()
			<-done
			return
		}
		held.confirmed.Store(true)
		session = next
	}
}

// again tries to get the lease back for running work. It gives up when another process holds it, or the work is done.
func (l *Leases) again(ctx context.Context, name string, done <-chan struct{}) (s *concurrency.Session, mine bool) {
	for {
		s, owner, _, err := l.try(ctx, name)
		if err == nil {
			return s, owner == l.owner
		}
		select {
		case <-done:
			return nil, false
		case <-ctx.Done():
			return nil, false
		case <-time.After(retryPause):
		}
	}
}

// await returns once this process holds the lease.
func (l *Leases) await(ctx context.Context, name string) (*concurrency.Session, error) {
	for {
		s, owner, revision, err := l.try(ctx, name)
		if err != nil {
			return nil, err
		}
		if owner == l.owner {
			return s, nil
		}
		if err := l.gone(ctx, name, revision); err != nil {
			return nil, err
		}
	}
}

// try takes the lease if it is free or hangs on an earlier session of this process, and says who holds it.
func (l *Leases) try(ctx context.Context, name string) (s *concurrency.Session, owner string, revision int64, err error) {
	s, err = l.live(ctx)
	if err != nil {
		return nil, "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := l.prefix + name
	put := clientv3.OpPut(key, l.owner, clientv3.WithLease(s.Lease()))
	res, err := l.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(put).
		Else(clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Value(key), "=", l.owner)}, []clientv3.Op{put}, []clientv3.Op{clientv3.OpGet(key)})).
		Commit()
	if err != nil {
		return nil, "", 0, fmt.Errorf("take lease %s: %w", name, err)
	}
	if !res.Succeeded {
		if inner := res.Responses[0].GetResponseTxn(); !inner.GetSucceeded() {
			return s, string(inner.GetResponses()[0].GetResponseRange().GetKvs()[0].Value), res.Header.Revision, nil
		}
	}
	return s, l.owner, res.Header.Revision, nil
}

// gone waits until the lease's key is deleted. It looks at most a few TTLs long, because a watch across a broken connection stays silent.
func (l *Leases) gone(ctx context.Context, name string, revision int64) error {
	limit, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), 5*time.Duration(l.ttl)*time.Second)
	defer cancel()
	for res := range l.client.Watch(limit, l.prefix+name, clientv3.WithRev(revision+1), clientv3.WithFilterPut()) {
		if err := res.Err(); err != nil {
			return fmt.Errorf("watch lease %s: %w", name, err)
		}
		if len(res.Events) > 0 {
			return nil
		}
	}
	return ctx.Err()
}

// release gives the lease back, so that the next holder need not wait for its end.
func (l *Leases) release(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	key := l.prefix + name
	_, err := l.client.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", l.owner)).Then(clientv3.OpDelete(key)).Commit()
	if err != nil {
		l.logger.WarnContext(ctx, "lease is not given back and ends by itself", "lease", name, "error", err)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
