// Command settingsgen writes the reference page of the topic settings, on standard output.
package main

import (
	"io"
	"os"

	"github.com/penstock-io/penstock/internal/metadata"
)

func main() {
	if _, err := io.WriteString(os.Stdout, metadata.TopicSettingsPage()); err != nil {
		os.Exit(1)
	}
}
