package store

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	recordv1 "antipode.example/api/gen/antipode/record/v1"
	replicationv1 "antipode.example/api/gen/antipode/replication/v1"
	"antipode.example/platform/id"
	"antipode.example/platform/shard"
	"antipode.example/platform/state"
)

// digestSlots is how many slots one statement of SlotDigests reads, so that none runs into its time-out.
const digestSlots = 128

// SlotDigests is described at Interface. Slots without users are left out. Each user is read from one snapshot, the users of a slot too.
func (s *Store) SlotDigests(ctx context.Context, first, n int) ([]*replicationv1.SlotDigest, error) {
	if first < 0 || n < 0 || first+n > id.Slots {
		return nil, fmt.Errorf("digest slots %d to %d: there are %d slots", first, first+n, id.Slots)
	}
	var all []*replicationv1.SlotDigest
	var mu sync.Mutex
	err := s.each(func(sh *shard.Shard) error {
		for from := first; from < first+n; from += digestSlots {
			part, err := s.digestShard(ctx, sh, from, min(from+digestSlots, first+n))
			if err != nil {
				return err
			}
			mu.Lock()
			all = append(all, part...)
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *replicationv1.SlotDigest) int { return cmp.Compare(a.GetSlot(), b.GetSlot()) })
	return all, nil
}

func (s *Store) digestShard(ctx context.Context, sh *shard.Shard, first, end int) ([]*replicationv1.SlotDigest, error) {
	var all []*replicationv1.SlotDigest
	var vectors, states hash.Hash
	finish := func() {
		if len(all) > 0 {
			d := all[len(all)-1]
			d.Vectors, d.States = vectors.Sum(nil), states.Sum(nil)
		}
	}
	err := sh.Primary.Query(ctx, "digest slots", func(r pgx.Rows) error {
		var slot uint32
		var user [16]byte
		var vector []byte
		var bodies [][]byte
		if err := r.Scan(&slot, &user, &vector, &bodies); err != nil {
			return err
		}
		digest, err := s.stateDigest(user, bodies)
		if err != nil {
			return err
		}
		if len(all) == 0 || all[len(all)-1].GetSlot() != slot {
			finish()
			all = append(all, &replicationv1.SlotDigest{Slot: slot})
			vectors, states = sha256.New(), sha256.New()
		}
		all[len(all)-1].Users++
		vectors.Write(user[:])
		vectors.Write(binary.BigEndian.AppendUint32(nil, uint32(len(vector)))) //nolint:gosec // far below
		vectors.Write(vector)
		states.Write(user[:])
		states.Write(digest[:])
		return nil
	}, `select c.slot::int, c.user_id, c.vector, (select array_agg(r.body) from records r where r.user_id = c.user_id)
		from causality c join slots s on s.slot = c.slot and s.owned
		where c.slot >= $1 and c.slot < $2 order by c.slot, c.user_id`, first, end)
	if err != nil {
		return nil, err
	}
	finish()
	return all, nil
}

func (s *Store) stateDigest(user id.ID, bodies [][]byte) ([32]byte, error) {
	u := state.NewUser(user)
	for _, body := range bodies {
		if err := readRecord(u, body); err != nil {
			return [32]byte{}, err
		}
	}
	return s.engine.Digest(u), nil
}

// Vectors is described at Interface.
func (s *Store) Vectors(ctx context.Context, slot uint16, after id.ID, limit int) ([]*replicationv1.UserVector, error) {
	if int(slot) >= id.Slots {
		return nil, fmt.Errorf("list the vectors of slot %d: there are %d slots", slot, id.Slots)
	}
	var users []*replicationv1.UserVector
	err := s.onOwner(ctx, slot, func(sh *shard.Shard) error {
		users = nil
		return sh.Primary.Query(ctx, "list vectors", func(r pgx.Rows) error {
			var owned bool
			var user *[16]byte
			var vector []byte
			var bodies [][]byte
			if err := r.Scan(&owned, &user, &vector, &bodies); err != nil {
				return err
			}
			if !owned {
				return shard.ErrMoved(fmt.Errorf("the shard does not own slot %d", slot))
			}
			if user == nil {
				return nil // the slot has no more users
			}
			digest, err := s.stateDigest(*user, bodies)
			if err != nil {
				return err
			}
			v := &recordv1.Vector{}
			if err := proto.Unmarshal(vector, v); err != nil {
				return fmt.Errorf("decode the vector of user %s: %w", id.ID(*user), err)
			}
			users = append(users, &replicationv1.UserVector{UserId: user[:], Vector: v, State: digest[:]})
			return nil
		}, `select s.owned, c.user_id, c.vector, c.bodies from slots s left join lateral (
				select c.user_id, c.vector, (select array_agg(r.body) from records r where r.user_id = c.user_id) as bodies
				from causality c where c.slot = s.slot and c.user_id > $2 order by c.user_id limit $3) c on true
			where s.slot = $1 order by c.user_id`, int16(slot), [16]byte(after), limit) //nolint:gosec // checked
	})
	if err != nil {
		return nil, err
	}
	return users, nil
}
