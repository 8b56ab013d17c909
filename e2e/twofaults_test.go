package e2e

import (
	"cmp"
	"flag"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"antipode.example/e2e/bounds"
)

var seed = flag.Uint64("seed", 0, "of TestTwoFaultsAtOnce, run this seed only")

// TestTwoFaultsAtOnce is TestNothingLost with two faults, which a seed chooses; -args -seed N runs one again.
func TestTwoFaultsAtOnce(t *testing.T) {
	first, last := uint64(1), uint64(bounds.Times(50, 0))
	if *seed > 0 {
		first, last = *seed, *seed
	}
	if last == 0 {
		t.Skip("in full only, or with -seed: a seed takes the better part of a minute")
	}
	for n := first; n <= last; n++ {
		two := twoFaults(n)
		t.Run(strconv.FormatUint(n, 10)+": "+strings.Join(two, " and "), func(t *testing.T) {
			if err := breakAndCheck(t, two...).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// twoFaults chooses two of the faults, a lossy link of any two regions among them.
func twoFaults(seed uint64) []string {
	all := append(faults(), "loss us-east eu-west 5%", "loss eu-west ap-south 5%")
	chance := rand.New(rand.NewPCG(seed, 0))
	for {
		two := []string{all[chance.IntN(len(all))], all[chance.IntN(len(all))]}
		if together(two[0], two[1]) && together(two[1], two[0]) {
			return two
		}
	}
}

// together says that both faults can be there at once, and that what follows can be judged as it is for one. Each pair that is left out has its reason here:
//
//   - what is powered off has no processes to break and no clock to ask;
//   - a component has one fault at a time; which instance captures is only known when it is killed, so that goes with no other fault of an instance of the
//     service there.
//
// Everything else is judged as for one fault: the regions that neither is aimed at take writes throughout. Two members of the global store may be gone: then those
// refuse sign-ups (TestWithoutAQuorum looks how), and what they have to acknowledge are changes. Two regions may be gone: then the third is alone. While two clocks
// are out of reach nobody can tell that the third is wrong, and it takes writes: a field has one writer here, whose stamps rise, so nothing is lost by that. It
// takes them only from those whom it has signed in itself, see lonely.
func together(a, b string) bool {
	kind, what := strings.Fields(a)[0], strings.Fields(a)[1]
	_, component, _ := strings.Cut(what, "/")
	captures := capturing.FindStringSubmatch(component)
	inside := strings.Contains(strings.Fields(b)[1], "/") || slices.Contains([]string{"clock", "power-off"}, strings.Fields(b)[0])
	switch {
	case kind == "power-off" && inside && aimedAt(a) == aimedAt(b):
		return false
	case captures != nil:
		return !strings.Contains(b, aimedAt(a)+"/"+cmp.Or(captures[1], "user")+"-") && a != b
	case strings.Contains(what, "/"):
		return what != strings.Fields(b)[1]
	}
	return a != b
}

// TestPairsThatCanBeJudged: of the pairs that are left out there is a reason for each.
func TestPairsThatCanBeJudged(t *testing.T) {
	for _, pair := range [][2]string{
		{"power-off us-east", "power-off us-east"},
		{"power-off us-east", "kill us-east/haproxy"},
		{"clock ap-south +5m", "power-off ap-south"},
		{"kill us-east/user-a", "pause us-east/user-a"},
		{"kill us-east/capturing-s1", "pause us-east/user-b"},
		{"kill us-east/session-capturing-s1", "pause us-east/session-b"},
		{"wipe eu-west/kafka", "kill eu-west/kafka"},
	} {
		if together(pair[0], pair[1]) && together(pair[1], pair[0]) {
			t.Errorf("%q and %q would be injected together", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{
		{"power-off us-east", "power-off eu-west"},
		{"power-off us-east", "cut us-east eu-west"},
		{"clock ap-south +5m", "isolate ap-south"},
		{"kill us-east/standby-s1", "kill us-east/primary-s1"},
		{"kill us-east/user-a", "pause us-east/user-b"},
		{"kill us-east/capturing-s1", "pause us-east/session-a"},
		{"kill us-east/session-capturing-s1", "kill us-east/user-a"},
	} {
		if !together(pair[0], pair[1]) || !together(pair[1], pair[0]) {
			t.Errorf("%q and %q would not be injected together", pair[0], pair[1])
		}
	}
}

// TestWhoMayDeny: a region that knows the time lets in whom it should, whatever else is broken.
func TestWhoMayDeny(t *testing.T) {
	const clock = "clock ap-south +5m"
	for _, test := range []struct {
		faults []string
		want   string
	}{
		{[]string{clock}, ""},
		{[]string{"isolate ap-south"}, ""},
		{[]string{clock, "kill us-east/kafka"}, ""},
		{[]string{clock, "wipe us-east/redis"}, ""},
		{[]string{"loss eu-west ap-south 5%", clock}, ""},
		{[]string{clock, "isolate ap-south"}, "ap-south"},
		{[]string{"power-off us-east", clock}, "ap-south"},
		{[]string{clock, "wipe us-east"}, "ap-south"},
	} {
		if got := lonely(test.faults...); got != test.want {
			t.Errorf("with %q, %q may deny", test.faults, got)
		}
	}
}
