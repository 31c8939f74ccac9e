package metadata

import (
	"fmt"
	"strings"
)

const settingsHead = `# Topic settings

<!-- Generated from the table in internal/metadata/settings.go by "make generate". Do not edit. -->

Settings are spelled as in Kafka. They are given at ` + "`brokerctl topic create NAME --config KEY=VALUE`" + `, changed by
` + "`brokerctl topic config NAME --set KEY=VALUE`" + ` and set back by ` + "`--unset KEY`" + `. A change takes effect on all replicas
at once, without a restart. ` + "`brokerctl topic config NAME`" + ` shows what is in force, and where it comes from.

| setting | default | allowed | |
|---|---|---|---|
`

// TopicSettingsPage is the reference page of the topic settings, in Markdown.
func TopicSettingsPage() string {
	var b strings.Builder
	b.WriteString(settingsHead)
	for _, row := range topicSettings {
		def := "by replication factor"
		if row.Default != "" {
			def = "`" + row.Default + "`"
		}
		allowed := row.Allowed()
		if row.Type != "int" && row.Type != "ratio" {
			allowed = "`" + strings.ReplaceAll(row.Type, "|", "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", row.Key, def, allowed, row.Doc)
	}
	return b.String()
}
