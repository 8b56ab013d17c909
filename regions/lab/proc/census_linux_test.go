package proc

import (
	"testing"
	"testing/synctest"
	"time"
)

// A look that is under way may have passed over what its caller asks for: whoever calls meanwhile gets the next one, all of them the same.
func TestACensusLooksAfterItWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		l := &looking{look: func() ([]Process, error) {
			n++
			number := n
			<-time.After(time.Second)
			return []Process{{PID: number}}, nil
		}}
		ask := func(want int) {
			one := l.join()
			<-one.done
			if got := one.found[0].PID; got != want {
				t.Errorf("look %d, want %d", got, want)
			}
		}
		go ask(1)
		<-time.After(time.Second / 2)
		for range 19 {
			go ask(2)
		}
		<-time.After(3 * time.Second)
		go ask(3)
		<-time.After(2 * time.Second)
		if n != 3 {
			t.Errorf("%d looks, want 3", n)
		}
	})
}
