package config

import (
	"fmt"
	"strings"
)

const pageHead = `# Settings of a node

<!-- Generated from the table in internal/config/keys.go by "make generate". Do not edit. -->

Each setting may be given in four places; a later one goes before an earlier one:

1. the default of the table below;
2. the YAML file that ` + "`broker --config FILE`" + ` (or the variable ` + "`PENSTOCK_CONFIG`" + `) names, flat (` + "`listen.peer: ...`" + `) or
   nested (` + "`listen: {peer: ...}`" + `);
3. a variable of the environment: the key in upper case, dots as underscores, after ` + "`PENSTOCK_`" + `;
4. a flag: the key after two dashes, such as ` + "`--listen.peer 127.0.0.1:9093`" + `.

All are read once, at the start. A key that does not exist, stands twice, or has a value that is not allowed refuses to start with exit
status 2, and the error names the place and the nearest key; so does a file that is named and cannot be read. ` + "`broker config print`" + `
shows each value in force with its origin. Sizes are bytes, or have the unit KiB, MiB or GiB; durations have a unit (ms, s, m, h); lists are
YAML lists, or separated by commas.

| key and variable | type | default | allowed | what it does | a change takes effect |
|---|---|---|---|---|---|
`

// Page is the reference page of the settings, in Markdown.
func Page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	for _, k := range keys {
		def, allowed := "", k.Allowed()
		if k.Default != "" {
			def = "`" + k.Default + "`"
		}
		if len(k.Values) > 0 {
			allowed = "`" + strings.Join(k.Values, "`, `") + "`"
		}
		fmt.Fprintf(&b, "| `%s`<br>`%s` | %s | %s | %s | %s | %s |\n",
			k.Name, EnvName(k.Name), k.Kind, def, allowed, strings.ReplaceAll(k.Doc, "|", `\|`), k.Effect())
	}
	return b.String()
}
