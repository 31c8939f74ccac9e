// Command errgen writes the ErrorCode enum of the public API from the stable error table, on standard output.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/penstock-io/penstock/internal/model"
)

const head = `// Generated from the stable error table by errgen. DO NOT EDIT.

syntax = "proto3";

package penstock.v1;

option go_package = "github.com/penstock-io/penstock/api/gen/penstockv1;penstockv1";

// ErrorCode is the stable table of failures. Numbers below 1000 are Kafka's.
enum ErrorCode {
  // No error.
  ERROR_CODE_UNSPECIFIED = 0;
`

func main() {
	w := bufio.NewWriter(os.Stdout)
	_, _ = w.WriteString(head)
	for _, row := range model.ErrorTable() {
		if row.Code == model.CodeNone {
			continue
		}
		outcome, retry := "Outcome unknown", "not retryable"
		if row.Definite {
			outcome = "Definite: no effect"
		}
		if row.Retryable {
			retry = "retryable"
		}
		_, _ = fmt.Fprintf(w, "  // %s %s %s; %s; gRPC %s.\n  ERROR_CODE_%s = %d;\n",
			row.Meaning, row.Action, outcome, retry, row.GRPC, row.Name, row.Code)
	}
	_, _ = w.WriteString("}\n")
	if err := w.Flush(); err != nil {
		fmt.Fprintln(os.Stderr, "errgen:", err)
		os.Exit(1)
	}
}
