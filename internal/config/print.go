package config

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print writes each setting with its value and its origin, one a line, to w. Secrets are not shown.
func (c *Config) Print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	for _, s := range c.settings {
		text := s.Value
		switch {
		case s.Key.Secret && text != "":
			text = "(hidden)"
		case text == "":
			text = `""`
		}
		origin := string(s.Origin)
		if s.Where != "" {
			origin += ": " + s.Where
		}
		if _, err := fmt.Fprintf(table, "%s\t%s\t# %s\n", s.Key.Name, text, origin); err != nil {
			return fmt.Errorf("print the configuration: %w", err)
		}
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}
