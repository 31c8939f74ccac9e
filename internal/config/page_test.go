package config

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestThePageIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if page := Page(); string(have) != page {
		t.Error("docs/configuration.md is not what the table says; run make generate")
	} else if n := strings.Count(page, "\n| `"); n != len(keys) {
		t.Errorf("%d settings stand on the page, the table has %d", n, len(keys))
	}
}

// Every key says what it does in whole sentences, and what values it takes; its default is one of them.
func TestEveryKeyIsDocumented(t *testing.T) {
	for _, k := range keys {
		if len(k.Doc) < 20 || !strings.HasSuffix(k.Doc, ".") || strings.ToUpper(k.Doc[:1]) != k.Doc[:1] {
			t.Errorf("%s has no proper description: %q", k.Name, k.Doc)
		}
		if k.Kind == "" || k.set == nil || k.Effect() == "" {
			t.Errorf("%s is not complete: %+v", k.Name, k)
		}
		if k.bounded() != (k.Max > 0) || k.Min > k.Max {
			t.Errorf("%s, of the kind %s, has the bounds %d and %d", k.Name, k.Kind, k.Min, k.Max)
		}
		if err := k.check(k.Default); err != nil {
			t.Errorf("the default of %s: %v", k.Name, err)
		}
	}
}

// What is documented as allowed is what is checked: the bounds themselves, as they are printed, and nothing beyond.
func TestTheDocumentedBoundsAreThoseChecked(t *testing.T) {
	for _, k := range keys {
		if !k.bounded() {
			continue
		}
		low, high, ok := strings.Cut(k.Allowed(), " to ")
		if !ok {
			t.Errorf("%s: %q", k.Name, k.Allowed())
		}
		for _, text := range []string{low, high} {
			if err := k.check(text); err != nil {
				t.Errorf("%s: %v", k.Name, err)
			}
		}
		for _, n := range []int64{k.Min - 1, k.Max + 1} {
			text := time.Duration(n).String()
			if k.Kind != KindDuration {
				text = k.text(n)
			}
			if err := k.check(text); err == nil {
				t.Errorf("%s accepts %s, allowed is %s", k.Name, text, k.Allowed())
			}
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 10 * time.Millisecond: "10ms", time.Second: "1s", 90 * time.Second: "1m30s", time.Minute: "1m", 5 * time.Minute: "5m",
		time.Hour: "1h", 90 * time.Minute: "1h30m", 24 * time.Hour: "24h", 10*time.Hour + 20*time.Minute: "10h20m", time.Hour + time.Second: "1h0m1s",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}
