package global_test

import (
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"antipode.example/platform/global"
)

// Which member is spoken to when members have no leader; whether that helps is for real links to show (e2e, TestSignUpWithOneLinkCut).
func TestAMemberWithoutALeaderIsLeft(t *testing.T) {
	all := []string{"http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"}
	s, err := global.Open(all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var spoken [][]string
	ctx, cancel := global.Quorum(t.Context())
	defer cancel()
	if _, err := global.Agree(ctx, s, func(c *clientv3.Client) (int, error) {
		if spoken = append(spoken, c.Endpoints()); len(spoken) < 4 {
			return 0, rpctypes.ErrNoLeader
		}
		return 0, nil
	}); err != nil {
		t.Fatal(err)
	}
	want := [][]string{all, {all[1], all[2]}, {all[2], all[0]}, {all[0], all[1]}}
	if !slices.EqualFunc(spoken, want, slices.Equal) {
		t.Errorf("spoke to %v, want %v", spoken, want)
	}
	if _, err := global.Nearby(s, func(c *clientv3.Client) (int, error) {
		if got := c.Endpoints(); !slices.Equal(got, all) {
			t.Errorf("asked %v for what any member knows, want the nearest first: %v", got, all)
		}
		return 0, nil
	}); err != nil {
		t.Fatal(err)
	}
}
