package control

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// probes plays probes, one a second: "." is good, "x" failed. It returns the seconds at which the stance changed, as "12:down".
func (o *opinion) play(from int, probes string) (changes []string, next int) {
	for _, p := range probes {
		var err error
		if p == 'x' {
			err = errors.New("no answer in time")
		}
		from++
		if o.note(time.Duration(from)*time.Second, err) {
			changes = append(changes, time.Duration(from*int(time.Second)).String()+" "+o.stance.String())
		}
	}
	return changes, from
}

func TestHysteresis(t *testing.T) {
	good := func(n int) string { return strings.Repeat(".", n) }
	bad := func(n int) string { return strings.Repeat("x", n) }
	for name, tc := range map[string]struct{ probes, want string }{
		"two good are no opinion":                       {good(2), ""},
		"three good are the first":                      {good(3), "3s up"},
		"two bad are no opinion":                        {bad(2), ""},
		"three bad are the first":                       {bad(3), "3s down"},
		"as long as they alternate there is none":       {strings.Repeat(".x", 50), ""},
		"two failures do nothing":                       {good(3) + "xx.xx" + good(20), "3s up"},
		"three in a row":                                {good(10) + bad(3), "3s up,13s down"},
		"five of the last ten":                          {good(3) + ".x.x.x.x.x", "3s up,13s down"},
		"four of the last ten, again and again":         {good(3) + strings.Repeat("xx...xx...", 10), "3s up"},
		"what was before the stance counts no more":     {"xx..." + ".x.x.x.", "5s up"},
		"up after ten good ones, and the hold-down":     {good(3) + bad(3) + good(10), "3s up,6s down,16s up"},
		"nine good ones are too few":                    {good(3) + bad(3) + good(9) + "x" + good(9) + "x", "3s up,6s down"},
		"ten good ones after a long time are enough":    {good(3) + bad(60) + good(10), "3s up,6s down,1m13s up"},
		"the hold-down doubles":                         {good(3) + bad(3) + good(10) + bad(3) + good(19) + ".", "3s up,6s down,16s up,19s down,39s up"},
		"and again":                                     {good(3) + bad(3) + good(10) + bad(3) + good(20) + bad(3) + good(40), "3s up,6s down,16s up,19s down,39s up,42s down,1m22s up"},
		"after ten minutes of being up it is as before": {good(3) + bad(3) + good(10) + good(600) + bad(3) + good(10), "3s up,6s down,16s up,10m19s down,10m29s up"},
		"a little less is not enough":                   {good(3) + bad(3) + good(10) + good(590) + bad(3) + good(19), "3s up,6s down,16s up,10m9s down"},
	} {
		o := &opinion{}
		changes, _ := o.play(0, tc.probes)
		if got := strings.Join(changes, ","); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestTheHoldDownIsBounded(t *testing.T) {
	o := &opinion{}
	_, at := o.play(0, "...")
	for range 12 {
		_, at = o.play(at, "xxx")
		_, at = o.play(at, strings.Repeat(".", int(o.hold/time.Second)))
		if o.stance != up {
			t.Fatalf("after a hold-down of %s it is %s", o.hold, o.stance)
		}
	}
	if o.hold != mostHold {
		t.Errorf("the hold-down is %s", o.hold)
	}
}

func TestWhySaysWhatHappened(t *testing.T) {
	o := &opinion{}
	o.play(0, "...xxx")
	if o.why != "3 probes in a row failed, the last: no answer in time" {
		t.Error(o.why)
	}
}
