package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// TestWrongUsage needs no cluster: what is wrong with a command line is said before anybody is asked.
func TestWrongUsage(t *testing.T) {
	for line, want := range map[string]string{
		"completion nosuchshell":                 "nosuchshell",
		"completion":                             "needs a command",
		"cluster health --wait -1s":              "--wait",
		"--bootstrap localhost topic list":       "host:port",
		"--bootstrap a:1,,b:2 topic list":        "host:port",
		"--bootstrap localhost: topic list":      "host:port",
		"--bootstrap localhost:kafka topic list": "host:port",
		"--bootstrap localhost:70000 topic list": "host:port",
		"--bootstrap localhost:0 topic list":     "host:port",
		"--bootstrap= topic list":                "--bootstrap is empty",
		"topic list everything":                  "takes no arguments, 1 given",
		"consume t -O @yesterday":                "is no time",
		"--timeout 0s topic list":                "--timeout",
		"topic describe":                         "0 given",
		"produce t --acks none --receipts":       "--receipts",
		"consume t --from-beginning -O start":    "exclude",
		"consume t -O 3..1":                      "3..1",
		"topic create t --config retention.ms":   "KEY=VALUE",
	} {
		var out, errs bytes.Buffer
		code := run(context.Background(), strings.Fields(line), streams{in: strings.NewReader(""), out: &out, err: &errs})
		if code != exitUsage || out.Len() > 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: exit status %d, standard output %q, standard error %q, want %q in it", line, code, out.String(), errs.String(), want)
		}
	}
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"completion", "bash"}, streams{in: strings.NewReader(""), out: &out, err: &errs}); code != exitOK || out.Len() == 0 {
		t.Errorf("completion bash: exit status %d, %d bytes, %s", code, out.Len(), errs.String())
	}
}
