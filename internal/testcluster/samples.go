package testcluster

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// SampleLogsEnv names the directory with real logs.
const SampleLogsEnv = "PENSTOCK_SAMPLE_LOGS"

// SampleLog is one log, split at newlines as `brokerctl produce` splits.
type SampleLog struct {
	Name  string
	Lines [][]byte
}

// SampleLogs reads the logs of the directory that PENSTOCK_SAMPLE_LOGS names, or makes some with the same oddities: lines that
// end in CR LF, stray CRs, empty lines, a last line without an end. It says in the test's log which ones it took.
func SampleLogs(t testing.TB) []SampleLog {
	t.Helper()
	dir := os.Getenv(SampleLogsEnv)
	if dir == "" {
		t.Logf("%s is not set: using generated logs", SampleLogsEnv)
		return generated()
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("sample logs: %v", err)
	}
	var logs []SampleLog
	for _, entry := range entries {
		if entry.IsDir() || filepath.Ext(entry.Name()) != ".log" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, entry.Name())) //nolint:gosec // the tester names the directory
		if err != nil {
			t.Fatalf("sample logs: %v", err)
		}
		logs = append(logs, SampleLog{Name: entry.Name(), Lines: split(text)})
	}
	if len(logs) == 0 {
		t.Fatalf("sample logs: %s holds no .log file", dir)
	}
	slices.SortFunc(logs, func(a, b SampleLog) int { return cmp.Compare(a.Name, b.Name) })
	t.Logf("using %d logs of %s", len(logs), dir)
	return logs
}

// split splits at \n only; a last line without one is a line, nothing after a last \n is none.
func split(text []byte) [][]byte {
	if len(text) == 0 {
		return nil
	}
	return bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
}

func generated() []SampleLog {
	var logs []SampleLog
	for _, name := range []string{"a.log", "b.log", "c.log", "d.log"} {
		var text bytes.Buffer
		for i := range 2000 {
			switch i % 50 {
			case 7:
				text.WriteString("\n")
			case 11:
				fmt.Fprintf(&text, "%s line %d with a\rstray return\n", name, i)
			case 13:
				fmt.Fprintf(&text, "%s line %d with bytes \xff\x00\xfe\n", name, i)
			default:
				fmt.Fprintf(&text, "%s 2015-07-29 17:41:%02d,%03d - INFO [worker-%d] - line %d\r\n", name, i%60, i%1000, i%7, i)
			}
		}
		text.WriteString("the last line has no end")
		logs = append(logs, SampleLog{Name: name, Lines: split(text.Bytes())})
	}
	return logs
}
