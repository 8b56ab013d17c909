package e2e

import (
	"testing"

	"antipode.example/e2e/bounds"
)

// faults are what is broken, one at a time and two at a time.
func faults() []string {
	return []string{
		"kill us-east/primary-s1",
		// In full only.
		"wipe eu-west/kafka",
		"power-off us-east", "power-off eu-west", "power-off ap-south",
		"kill us-east/standby-s1", "pause us-east/standby-s2", "pause us-east/primary-s2",
		"kill-postmaster eu-west/primary-s1", "orphan eu-west/primary-s2",
		"kill eu-west/kafka", "pause ap-south/kafka",
		"wipe us-east/redis", "pause us-east/redis",
		"kill us-east/etcd-global", "kill us-east/etcd-regional", "wipe ap-south/etcd-regional",
		"kill us-east/haproxy",
		"kill us-east/user-a", "pause us-east/user-a", "kill us-east/user-b", "pause us-east/user-b", "kill us-east/capturing-s1",
		"kill us-east/session-a", "pause us-east/session-b", "kill us-east/session-capturing-s1",
		"cut us-east eu-west", "cut-one-way us-east ap-south", "isolate ap-south", "loss us-east ap-south 5%", "delay us-east eu-west 500ms",
		"clock ap-south +5m",
	}
}

// TestNothingLost breaks one thing after the other under writes in all regions. Whatever it is: what was acknowledged is in every region afterwards, nothing
// else is, nothing was made twice, no reader went back behind its token, nobody was signed out, and all regions hold the same.
func TestNothingLost(t *testing.T) {
	for _, name := range faults()[:bounds.Times(len(faults()), 1)] {
		t.Run(name, func(t *testing.T) {
			if err := breakAndCheck(t, name).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNothingLostOverALossyLink is TestNothingLost while a link loses packets.
func TestNothingLostOverALossyLink(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only")
	}
	const lossy = "loss eu-west ap-south 5%"
	for _, name := range faults() {
		t.Run(name, func(t *testing.T) {
			if err := breakAndCheck(t, lossy, name).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAWipedRegionLosesOnlyWhatNobodyElseHad: what was answered with the durability "remote" survives the loss of every disk of the region, and what was lost is
// known by its id; the region comes back as its next incarnation, and all regions end equal.
func TestAWipedRegionLosesOnlyWhatNobodyElseHad(t *testing.T) {
	if !bounds.Accept() {
		t.Skip("in full only: TestWhoHasSeenWhatIsLostIsTold is the sample")
	}
	report := breakAndCheck(t, "wipe us-east")
	for _, l := range report.Lost {
		if l.Write.Region != "us-east" || l.Write.Got == "remote" {
			t.Errorf("lost in %s: write %d of %s, durability %s: %+v", l.Region, l.Write.Seq, l.Write.Region, l.Write.Got, l.Write)
		} else {
			t.Logf("lost with the disks of us-east: %s of user %s, %q", l.Write.Kind, l.Write.User, l.Write.Value)
		}
	}
	if len(report.Ghosts)+len(report.Differ) > 0 {
		t.Error(report.Err())
	}
	status, err := world.Status(t.Context())
	must(t, err)
	if got := status.Regions[0].Replication; got == nil || got.Error != "" {
		t.Errorf("replication of the region that came back: %+v", got)
	}
}
