package auth

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// values are the points of a gauge or counter, by their attributes.
func values(t *testing.T, reader metric.Reader, name string) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil { //nolint:usetesting // also asked while a test ends
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			if m.Name != name {
				continue
			}
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					got[p.Attributes.Encoded(encoder{})] = p.Value
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					got[p.Attributes.Encoded(encoder{})] = p.Value
				}
			}
		}
	}
	return got
}

func TestBadFilesAreRefusedAtTheStart(t *testing.T) {
	w := newWorld(t, "us-east", "eu-west")
	us, eu := w.signing["us-east"].Keys[0], w.signing["eu-west"].Keys[0]
	verify, signing := w.verifyFile("us-east"), w.signingFile("us-east")
	entry := func(k SigningKey, region string) string {
		return fmt.Sprintf(`{"region":%q,"id":%q,"public":%q}`, region, k.ID, base64Of(k.Public(region).Public))
	}
	goodVerify, err := os.ReadFile(verify)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ file, content, says string }{
		"no public keys":               {verify, `{"keys":[]}`, "has no key"},
		"no document":                  {verify, ``, "EOF"},
		"cut short":                    {verify, string(goodVerify[:len(goodVerify)/2]), "unexpected EOF"},
		"two documents":                {verify, string(goodVerify) + "{}", "something follows"},
		"unknown member":               {verify, `{"keys":[{"region":"us-east","id":"1","key":"x"}]}`, "unknown field"},
		"short public key":             {verify, `{"keys":[{"region":"us-east","id":"1","public":"AAAA"}]}`, "a public key of 32 bytes"},
		"no region":                    {verify, `{"keys":[` + entry(us, "") + `]}`, "a region"},
		"region with a slash":          {verify, `{"keys":[` + entry(us, "us/east") + `]}`, "a region"},
		"a name twice":                 {verify, `{"keys":[` + entry(us, "us-east") + "," + entry(us, "us-east") + `]}`, "occurs twice"},
		"a key of two regions":         {verify, `{"keys":[` + entry(us, "us-east") + "," + entry(us, "eu-west") + `]}`, "occurs twice"},
		"own key not published":        {verify, `{"keys":[` + entry(eu, "eu-west") + `]}`, "no region would accept"},
		"own key as another region's":  {verify, `{"keys":[` + entry(us, "eu-west") + `]}`, "no region would accept"},
		"another key of the same name": {verify, `{"keys":[{"region":"us-east","id":"` + us.ID + `","public":"` + base64Of(eu.Public("").Public) + `"}]}`, "no region would accept"},
		"no signing keys":              {signing, `{"keys":[]}`, "has no key"},
		"short seed":                   {signing, `{"keys":[{"id":"1","seed":"AAAA"}]}`, "a seed of 32 bytes"},
		"signing id twice":             {signing, fmt.Sprintf(`{"keys":[{"id":"1","seed":%q},{"id":"1","seed":%q}]}`, base64Of(us.Seed), base64Of(eu.Seed)), "occurs twice"},
		"too large":                    {signing, strings.Repeat(" ", maxKeyFile+1), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			w.write("us-east")
			w.put(tt.file, tt.content)
			_, err := OpenKeys(w.config("us-east"))
			if err == nil || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), tt.file) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), base64Of(us.Seed)) {
				t.Error("the error has a seed in it")
			}
		})
	}
	for _, tt := range []struct {
		file string
		mode os.FileMode
	}{{signing, 0o640}, {signing, 0o604}, {verify, 0o664}, {verify, 0o602}} {
		w.write("us-east")
		if err := os.Chmod(tt.file, tt.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKeys(w.config("us-east")); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%s with mode %o: %v", tt.file, tt.mode, err)
		}
	}
}

func TestSeedsAreNotShown(t *testing.T) {
	k := newKey(t)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).InfoContext(t.Context(), "x", slog.Any("key", k))
	text := fmt.Sprintf("%v %+v %s %v", k, SigningKeys{Keys: []SigningKey{k}}, k, []SigningKey{k}) + log.String()
	if strings.Contains(text, fmt.Sprintf("%d", k.Seed)) || bytes.Contains([]byte(text), k.Seed) || strings.Contains(text, base64Of(k.Seed)) {
		t.Error(text)
	}
}

// A process follows its files without a restart; one that becomes bad is told of, once, and changes nothing.
func TestFilesAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "us-east", "eu-west")
		reader := metric.NewManualReader()
		var log bytes.Buffer
		cfg := w.config("us-east")
		cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
		cfg.Meter = metric.NewMeterProvider(metric.WithReader(reader)).Meter("test")
		k, err := OpenKeys(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.Run(ctx) }()
		look := func() {
			time.Sleep(reloadEvery) //nolint:forbidigo // synctest's time
			synctest.Wait()
		}
		theirs := w.open("eu-west")
		old := w.token(theirs, alice())
		if _, err := k.Verify(old); err != nil {
			t.Fatal(err)
		}

		// eu-west gets another key.
		next := newKey(t)
		w.signing["eu-west"] = SigningKeys{Keys: []SigningKey{next}}
		all := append(VerifyKeys{next.Public("eu-west")}, w.signing["us-east"].Keys[0].Public("us-east"))
		w.verify["us-east"], w.verify["eu-west"] = all, all
		w.write("eu-west")
		theirs.Check(ctx)
		fresh := w.token(theirs, alice())
		if _, err := k.Verify(fresh); err == nil {
			t.Error("a key is accepted that is not published here")
		}
		w.write("us-east")
		look()
		if _, err := k.Verify(fresh); err != nil {
			t.Errorf("after the file has changed: %v", err)
		}
		if _, err := k.Verify(old); err == nil {
			t.Error("a key is accepted that was taken away")
		}

		// Both files become bad, one after the other.
		w.put(w.verifyFile("us-east"), "{")
		look()
		look()
		if _, err := k.Verify(fresh); err != nil {
			t.Errorf("with a bad file of public keys: %v", err)
		}
		if got := values(t, reader, "antipode.auth.keys.bad"); got["file=verify"] != 1 || got["file=signing"] != 0 {
			t.Errorf("the metric says %v", got)
		}
		w.write("us-east")
		if err := os.Remove(w.signingFile("us-east")); err != nil {
			t.Fatal(err)
		}
		look()
		if _, err := k.Verify(w.token(k, alice())); err != nil {
			t.Errorf("without a file of signing keys: %v", err)
		}
		// A new signing key that nobody would accept does not sign.
		w.signing["us-east"] = SigningKeys{Keys: []SigningKey{newKey(t)}}
		w.write("us-east")
		look()
		if _, err := k.Verify(w.token(k, alice())); err != nil {
			t.Errorf("with a signing key that is not published: %v", err)
		}
		if got := values(t, reader, "antipode.auth.keys.bad"); got["file=verify"] != 0 || got["file=signing"] != 1 {
			t.Errorf("the metric says %v", got)
		}
		cancel()
		<-done
		if bad, good := strings.Count(log.String(), "key file is bad"), strings.Count(log.String(), "good again"); bad != 3 || good != 1 {
			t.Errorf("logged:\n%s", log.String())
		}
	})
}
