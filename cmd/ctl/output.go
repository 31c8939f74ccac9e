package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v3"
)

// print writes v as JSON or YAML (with the names of its JSON form), or table where text is asked for.
func (a *app) print(v any, table func(w io.Writer, wide bool) error) error {
	switch a.output {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		return writeYAML(a.out, v)
	default:
		w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
		if err := table(w, a.output == "wide"); err != nil {
			return err
		}
		return w.Flush()
	}
}

func writeYAML(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	// JSON is YAML: decoding it so keeps the order and the numbers.
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil {
		return err
	}
	blockStyle(&node)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return err
	}
	return enc.Close()
}

// blockStyle undoes the flow style that JSON decodes to.
func blockStyle(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// row writes tab-separated cells.
func row(w io.Writer, cells ...any) error {
	for i, c := range cells {
		if i > 0 {
			if _, err := io.WriteString(w, "\t"); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprint(w, c); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// ids writes node ids as 1,2,3, an empty list as -.
func ids(list []int32) string {
	if len(list) == 0 {
		return "-"
	}
	var b strings.Builder
	for i, id := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(id)))
	}
	return b.String()
}

// known writes a value that may be null.
func known[T any](v *T) any {
	if v == nil {
		return "-"
	}
	return *v
}

// nodeOrNull is nil for -1.
func nodeOrNull(id int32) *int32 {
	if id < 0 {
		return nil
	}
	return &id
}

// orEmpty turns nil into an empty list, so that JSON shows [].
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
