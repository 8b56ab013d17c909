package replicas

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/causal"
	"antipode.example/platform/global"
)

// World is what is known of all regions' incarnations.
type World struct {
	// Last is, by region, the last incarnation that was given out; those before it have ended.
	Last map[uint16]uint16
	// Began is, for a region's incarnation, the place in the region's log before which everything of its earlier incarnations is.
	Began map[causal.Replica]LogEnd
	// Heard is, for an ended incarnation, what the present incarnation of each region says it has of it and will, of itself, not add to.
	Heard map[causal.Replica]map[causal.Replica]string
	// Closed are the ended incarnations of which every region has the same, for ever.
	Closed map[causal.Replica]bool
}

// LogEnd is a place in a region's log: the Kafka cluster and the next offset of each partition.
type LogEnd struct {
	Cluster string  `json:"cluster"`
	Next    []int64 `json:"next"`
}

// Open are the incarnations that have ended and are not closed, in order.
func (w World) Open() []causal.Replica {
	var open []causal.Replica
	for _, region := range slices.Sorted(maps.Keys(w.Last)) {
		for i := uint16(1); i < w.Last[region]; i++ {
			if x := causal.NewReplica(region, i); !w.Closed[x] {
				open = append(open, x)
			}
		}
	}
	return open
}

// Now is the present incarnation of a region; 0 when none was given out.
func (w World) Now(region uint16) causal.Replica {
	if w.Last[region] == 0 {
		return 0
	}
	return causal.NewReplica(region, w.Last[region])
}

func (r *Replicas) prefix() string { return "/antipode/replicas/" + r.service + "/" }

func (r *Replicas) key(what string, of ...causal.Replica) string {
	key := r.prefix() + what
	for _, x := range of {
		key += "/" + x.String()
	}
	return key
}

// World is all of it as the nearest member knows it, which may be behind.
func (r *Replicas) World(ctx context.Context) (World, error) {
	ctx, cancel := global.Near(ctx)
	defer cancel()
	got, err := global.Nearby(r.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(ctx, r.prefix(), clientv3.WithPrefix(), clientv3.WithSerializable())
	})
	if err != nil {
		return World{}, global.Broken(ctx, "read the incarnations of all regions", err)
	}
	w := World{map[uint16]uint16{}, map[causal.Replica]LogEnd{}, map[causal.Replica]map[causal.Replica]string{}, map[causal.Replica]bool{}}
	for _, kv := range got.Kvs {
		if err := w.read(strings.Split(strings.TrimPrefix(string(kv.Key), r.prefix()), "/"), kv.Value); err != nil {
			return World{}, fmt.Errorf("read %s in the global store: %w", kv.Key, err)
		}
	}
	return w, nil
}

// read takes one key, cut at its slashes. Keys of kinds that are not known are left to those who know them.
func (w World) read(key []string, value []byte) error {
	if len(key) == 2 && key[1] == "last" {
		region, err := strconv.ParseUint(key[0], 10, 16)
		if err != nil {
			return err
		}
		last, err := strconv.ParseUint(string(value), 10, 16)
		w.Last[uint16(region)] = uint16(last)
		return err
	}
	var of []causal.Replica
	for _, text := range key[1:] {
		x, err := causal.ParseReplica(text)
		if err != nil {
			return err
		}
		of = append(of, x)
	}
	switch {
	case key[0] == "began" && len(of) == 1:
		var end LogEnd
		if err := json.Unmarshal(value, &end); err != nil {
			return err
		}
		w.Began[of[0]] = end
	case key[0] == "heard" && len(of) == 2:
		if w.Heard[of[0]] == nil {
			w.Heard[of[0]] = map[causal.Replica]string{}
		}
		w.Heard[of[0]][of[1]] = string(value)
	case key[0] == "closed" && len(of) == 1:
		w.Closed[of[0]] = true
	}
	return nil
}

// Closed are the incarnations of all regions that are closed, in no order. It is linearizable.
func (r *Replicas) Closed(ctx context.Context) ([]causal.Replica, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	prefix := r.key("closed") + "/"
	got, err := global.Agree(ctx, r.global, func(etcd *clientv3.Client) (*clientv3.GetResponse, error) {
		return etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	})
	if err != nil {
		return nil, global.Broken(ctx, "read which incarnations are closed", err)
	}
	var closed []causal.Replica
	for _, kv := range got.Kvs {
		x, err := causal.ParseReplica(strings.TrimPrefix(string(kv.Key), prefix))
		if err != nil {
			return nil, fmt.Errorf("read %s in the global store: %w", kv.Key, err)
		}
		closed = append(closed, x)
	}
	return closed, nil
}

// Begin notes where in its region's log an incarnation begins: everything of the earlier ones must be before.
func (r *Replicas) Begin(ctx context.Context, replica causal.Replica, end LogEnd) error {
	value, err := json.Marshal(end)
	if err != nil {
		return fmt.Errorf("encode a place in a log: %w", err)
	}
	return r.put(ctx, r.key("began", replica), string(value))
}

// Hear notes what a region, in its present incarnation, has of an ended one: from now on it adds to that only what it gets from another region's State.
func (r *Replicas) Hear(ctx context.Context, ended, by causal.Replica, entries string) error {
	return r.put(ctx, r.key("heard", ended, by), entries)
}

func (r *Replicas) put(ctx context.Context, key, value string) error {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	_, err := global.Agree(ctx, r.global, func(etcd *clientv3.Client) (*clientv3.PutResponse, error) { return etcd.Put(ctx, key, value) })
	if err != nil {
		return global.Broken(ctx, "write "+key, err)
	}
	return nil
}

// Close closes an ended incarnation if each of the regions, which must be all that there are, still says in its present incarnation that it has just these entries; it
// reports whether they do. It is for ever.
func (r *Replicas) Close(ctx context.Context, ended causal.Replica, regions []causal.Replica, entries string) (bool, error) {
	ctx, cancel := global.Quorum(ctx)
	defer cancel()
	var same []clientv3.Cmp
	for _, x := range regions {
		same = append(same, clientv3.Compare(clientv3.Value(r.key("heard", ended, x)), "=", entries),
			clientv3.Compare(clientv3.Value(r.lastKey(x.Region())), "=", strconv.Itoa(int(x.Incarnation()))))
	}
	done, err := global.Agree(ctx, r.global, func(etcd *clientv3.Client) (*clientv3.TxnResponse, error) {
		return etcd.Txn(ctx).If(same...).Then(clientv3.OpPut(r.key("closed", ended), entries)).Commit()
	})
	if err != nil {
		return false, global.Broken(ctx, "close an incarnation", err)
	}
	return done.Succeeded, nil
}
