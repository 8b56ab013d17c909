package etcdmember

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

const (
	rejoinLimit = 30 * time.Second // then Run returns, for its caller to show why and to try again
	rejoinCall  = 5 * time.Second
	rejoinPause = time.Second
)

// lost says that the member must be replaced: its cluster exists, and its own data don't. It has promised votes that it no longer knows of, so it must not come back as
// the one that it was.
func (c Config) lost() bool { return len(c.Rejoin) > 0 && !hasData(c.Data) }

// hasData says whether a directory holds the data of a member.
func hasData(dir string) bool { return wal.Exist(filepath.Join(dir, "member", "wal")) }

// replace has the other members remove this one and take it in anew. It needs their quorum, and waits for it up to rejoinLimit.
func (c Config) replace(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, rejoinLimit, errors.New("the others have not taken it in"))
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Rejoin, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("making a client of the other members: %w", err)
	}
	defer client.Close()
	for {
		err := c.replaceOnce(ctx, client)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("replacing etcd member %s: %w: %w", c.Name, err, context.Cause(ctx))
		case <-time.After(rejoinPause):
		}
	}
}

func (c Config) replaceOnce(ctx context.Context, client *clientv3.Client) error {
	ctx, cancel := context.WithTimeout(ctx, rejoinCall)
	defer cancel()
	all, err := client.MemberList(ctx)
	if err != nil {
		return fmt.Errorf("listing the members: %w", err)
	}
	for _, m := range all.Members {
		if !slices.Contains(m.PeerURLs, c.PeerURL) {
			continue
		}
		if _, err := client.MemberRemove(ctx, m.ID); err != nil {
			return fmt.Errorf("removing the old member: %w", err)
		}
	}
	if _, err := client.MemberAdd(ctx, []string{c.PeerURL}); err != nil {
		return fmt.Errorf("adding the new member: %w", err)
	}
	return nil
}
