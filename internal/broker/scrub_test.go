package broker

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/storage"
)

// Bytes behind the last batch of a sealed segment are no damage of any record, and not a log that cannot be read.
func TestTheScrubTellsWhatItFound(t *testing.T) {
	for what, tt := range map[string]struct {
		tell func(o storage.ScrubOptions)
		want string
	}{
		"bytes behind a sealed segment": {
			func(o storage.ScrubOptions) {
				o.OnDamage(&storage.Log{}, storage.Damage{From: 9, To: 9, File: "f", Position: 77})
			},
			"level=WARN msg=\"a sealed segment holds bytes behind its last batch",
		},
		"a log that cannot be opened": {
			func(o storage.ScrubOptions) { o.OnFailure(&storage.Log{}, errors.New("too many open files")) },
			"level=ERROR msg=\"the scrub cannot read a log on",
		},
	} {
		var out bytes.Buffer
		n := &Node{cfg: &config.Config{}, log: slog.New(slog.NewTextHandler(&out, nil))}
		tt.tell(n.scrubOptions(metricScrubDamages.Counter(), metricScrubChecked.Counter()))
		if !strings.Contains(out.String(), tt.want) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("%s: %s", what, out.String())
		}
	}
}
