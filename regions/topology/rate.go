package topology

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Rate is a number of bits per second; 0 means no limit. As text it is a number with a unit: bit, kbit, Mbit or Gbit
// (powers of 1000, in any case), or "unlimited".
type Rate int64

const unlimited = "unlimited"

var rateUnits = []struct {
	suffix string
	factor float64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}}

// ParseRate reads a rate such as "1Mbit" or "unlimited".
func ParseRate(s string) (Rate, error) {
	lower := strings.ToLower(strings.TrimSpace(s))
	if lower == unlimited {
		return 0, nil
	}
	for _, u := range rateUnits {
		number, ok := strings.CutSuffix(lower, u.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || math.IsNaN(v) || v*u.factor < 1 || v*u.factor > 1e12 {
			break
		}
		return Rate(math.Round(v * u.factor)), nil
	}
	return 0, fmt.Errorf("rate %q: want a number from 1bit to 1000Gbit with the unit bit, kbit, Mbit or Gbit, or %q", s, unlimited)
}

// ParseShare reads a share from 0 to 1, written as 5% or 0.05.
func ParseShare(s string) (float64, error) {
	number, isPercent := strings.CutSuffix(s, "%")
	share, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no share: write 1%% or 0.01", s)
	}
	if isPercent {
		share /= 100
	}
	if !isPercent && share == 1 {
		return 0, fmt.Errorf("%s may mean 1%% or all of them: write 1%% or 100%%", s)
	}
	if !(share >= 0 && share <= 1) {
		return 0, fmt.Errorf("%s is out of range: 0%% to 100%%", s)
	}
	return share, nil
}

// String writes the rate in the greatest unit that divides it.
func (r Rate) String() string {
	switch {
	case r == 0:
		return unlimited
	case r%1e9 == 0:
		return fmt.Sprintf("%dGbit", r/1e9)
	case r%1e6 == 0:
		return fmt.Sprintf("%dMbit", r/1e6)
	case r%1e3 == 0:
		return fmt.Sprintf("%dkbit", r/1e3)
	default:
		return fmt.Sprintf("%dbit", int64(r))
	}
}

// MarshalText implements encoding.TextMarshaler.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; see ParseRate.
func (r *Rate) UnmarshalText(text []byte) error {
	v, err := ParseRate(string(text))
	if err != nil {
		return err
	}
	*r = v
	return nil
}
