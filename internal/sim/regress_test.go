package sim

import "testing"

// regressions are schedules that broke a rule once. A seed means the same schedule only as long as nothing is drawn otherwise:
// whoever changes what a schedule draws takes the fix back, finds seeds that fail, and enters those.
var regressions = []struct {
	mode   Mode
	seed   uint64
	reason string
}{
	{ModeCore, 44, "a subscription that was held up arrived after a newer one, which the leader then dropped: the follower waited for ever"},
	{ModeCore, 148, "the same, over a stream that the follower had given up"},
	{ModeStorage, 1, "a process was killed before the first sync of a new log, the next one synced into it, and a power loss took its name"},
	{ModeStorage, 79, "the same, with a later segment's name"},
	{ModeStorage, 439, "a power loss took a log's first segment and left a later one: the log began there, and could not follow"},
	{ModeStorage, 473, "the same, and the log that began anew there held batches of before"},
	{ModeStorage, 505967, "a process died between finding a loss and registering it, the next one found nothing and kept its seat"},
	{ModeStorage, 500224, "an epoch led without a record, forgotten by a truncation, came back from the journal: committed records were cut"},
}

func TestRegressions(t *testing.T) {
	for _, r := range regressions {
		if res := Run(r.mode, r.seed, nil); len(res.Failures) > 0 {
			t.Errorf("%s\nit broke once because: %s", res, r.reason)
		}
	}
}
