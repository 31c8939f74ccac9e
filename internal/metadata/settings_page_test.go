package metadata

import (
	"os"
	"strings"
	"testing"
)

func TestTopicSettingsPageIsCurrent(t *testing.T) {
	have, err := os.ReadFile("../../docs/topic-settings.md")
	if err != nil {
		t.Fatal(err)
	}
	if page := TopicSettingsPage(); string(have) != page {
		t.Errorf("docs/topic-settings.md is not what the table says; run make generate")
	} else if n := strings.Count(page, "\n| `"); n != len(topicSettings) {
		t.Errorf("%d settings stand on the page, the table has %d", n, len(topicSettings))
	}
}
