// Command configgen writes the reference page of a node's settings, on standard output.
package main

import (
	"io"
	"os"

	"github.com/penstock-io/penstock/internal/config"
)

func main() {
	if _, err := io.WriteString(os.Stdout, config.Page()); err != nil {
		os.Exit(1)
	}
}
