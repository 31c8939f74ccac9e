//go:build unix

package chaos

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/documents"
)

// TestReadme runs the first session of the README as a newcomer would paste it. What differs: the cluster that `make run`
// would start is started from the programs built for the tests; the ports 9092, 9102 and 9112 become free ones, also where
// they are meant by default (PENSTOCK_BOOTSTRAP); and the shell stops at the first command that fails.
func TestReadme(t *testing.T) {
	bin := thePrograms(t)
	blocks, err := documents.Session(repository, "TestReadme")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "bin"), 0o750); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"broker": bin.broker, "brokerctl": bin.ctl} {
		if err := os.Symlink(path, filepath.Join(home, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	script := ""
	for _, b := range blocks {
		script += b.Text
	}
	if strings.Contains(script, "grpcurl") {
		tool, err := grpcurl()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(tool, filepath.Join(home, "bin", "grpcurl")); err != nil {
			t.Fatal(err)
		}
	}
	c := newCluster(t, bin, 3)
	c.dir = filepath.Join(home, "data", "dev") // as in the Makefile
	if err := os.MkdirAll(filepath.Dir(c.dir), 0o750); err != nil {
		t.Fatal(err)
	}
	c.startAll()
	var ports []string
	for i := range 3 {
		ports = append(ports, strconv.Itoa(9092+10*i), strconv.Itoa(c.port+10*i))
	}
	script = strings.NewReplacer(ports...).Replace(script) // in one pass: the new ports may hold the digits of the old
	if strings.Contains(script, ":90") || strings.Contains(script, ":91") {
		t.Errorf("the session names ports that no node of it has:\n%s", script)
	}
	session := filepath.Join(home, "session.sh")
	// Output goes to files: the node that is started in the background keeps standard output open.
	prologue := "exec >session.out 2>session.err\nset -euo pipefail\nset -x\n"
	if err := os.WriteFile(session, []byte(prologue+script+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	firstPID := c.pid(1)
	r := run(t, home, []string{"PENSTOCK_BOOTSTRAP=" + c.address(1)}, "", "bash", session)
	out, errOut := readBack(t, home, "session.out"), readBack(t, home, "session.err")
	if r.code != 0 {
		t.Fatalf("the session of the README ended with status %d after %v\n%s\n%s", r.code, r.took, tail(out), tail(errOut))
	}
	t.Logf("the session took %v and wrote:\n%s", r.took.Round(time.Millisecond), tail(out))
	for _, want := range []string{"identical\n", `"fsynced":3`, "still here\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the session did not show %q:\n%s\n%s", want, tail(out), tail(errOut))
		}
	}
	if alive(firstPID) && c.ours(firstPID, 1) {
		t.Errorf("the session did not kill node 1")
	}
	eventually(t, time.Minute, "node 1 runs again", func() error {
		_, err := c.readPID(1)
		return err
	})
	c.awaitHealthy()
	c.stopAll() // also the node that the session started by hand
}

func readBack(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocumentedCommands looks at every broker and brokerctl command line in the documents: the command exists and has
// the flags that are shown.
func TestDocumentedCommands(t *testing.T) {
	bin := thePrograms(t)
	paths, err := documents.Paths(repository)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join(repository, path))
		if err != nil {
			t.Fatal(err)
		}
		for _, words := range documentedCommands(path, string(text)) {
			line := strings.Join(words, " ")
			if seen[line] {
				continue
			}
			seen[line] = true
			program := bin.broker
			if filepath.Base(words[0]) == "brokerctl" {
				program = bin.ctl
			}
			if why := parses(t, program, words[1:]); why != "" {
				t.Errorf("%s: %s: %s", path, line, why)
			}
		}
	}
	if len(seen) == 0 {
		t.Error("no document shows a command")
	}
	t.Logf("%d command lines", len(seen))
	for _, wrong := range []string{"topics list", "topic crate x", "topic create x --partition 3", "produce x --aks all", "consume x --isolation y"} {
		if parses(t, bin.ctl, strings.Fields(wrong)) == "" {
			t.Errorf("brokerctl %s was taken for a command that exists", wrong)
		}
	}
}

// parses asks for the help of a command line and returns what is wrong with the line.
func parses(t *testing.T, program string, args []string) string {
	t.Helper()
	r := run(t, t.TempDir(), nil, "", program, append(append([]string(nil), args...), "--help")...)
	if r.code != 0 {
		return "--help says: " + strings.TrimSpace(r.err)
	}
	// The usage line names the command that was found. One with sub-commands takes no other words.
	if strings.Contains(r.out, "Available Commands:") {
		for _, usage := range usageLine.FindAllStringSubmatch(r.out, -1) {
			path := strings.Fields(usage[1])
			if words := plainWords(args); len(words) > len(path)-1 {
				return "there is no command " + strings.Join(words, " ")
			}
			break //nolint:staticcheck // the first usage line is the longest path
		}
	}
	return ""
}

var usageLine = regexp.MustCompile(`(?m)^Usage:\n +(.*?)(?: \[.*)?$`)

// plainWords are the words of a command line before its first flag.
func plainWords(args []string) []string {
	for i, a := range args {
		if strings.HasPrefix(a, "-") {
			return args[:i]
		}
	}
	return args
}

var (
	inlineCode  = regexp.MustCompile("`((?:broker|brokerctl) [^`]*)`")
	placeholder = regexp.MustCompile(`^[A-Z][A-Z,:=@/]*$|\.\.\.|[\[\]{}<>]`)
)

// documentedCommands are the command lines of broker and brokerctl in a document: in its shell blocks, and as inline code
// where that is no outline with placeholders.
func documentedCommands(path, text string) [][]string {
	var all [][]string
	blocks, _ := documents.Extract(path, text)
	for _, block := range blocks {
		for _, line := range block.Commands() {
			all = append(all, commandsOf(line)...)
		}
	}
	for _, found := range inlineCode.FindAllStringSubmatch(text, -1) {
		for _, words := range commandsOf(strings.ReplaceAll(found[1], "\n", " ")) {
			outline := false
			for _, w := range words {
				outline = outline || placeholder.MatchString(w)
			}
			if !outline {
				all = append(all, words)
			}
		}
	}
	return all
}

// commandsOf splits a shell line into simple commands and keeps those of broker and brokerctl.
func commandsOf(line string) [][]string {
	var all [][]string
	var words []string
	var word strings.Builder
	open, quote := false, rune(0)
	endWord := func() {
		if open {
			words = append(words, word.String())
		}
		word.Reset()
		open = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			if name := filepath.Base(words[0]); name == "broker" || name == "brokerctl" {
				all = append(all, words)
			}
		}
		words = nil
	}
	skip := false // within a redirection
	for _, r := range strings.TrimSpace(line) {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == '#' && !open:
			endCommand()
			return all
		case strings.ContainsRune("|;&()", r):
			skip = false
			endCommand()
		case r == '>' || r == '<':
			endWord()
			skip = true
		case r == ' ':
			if skip && word.Len() > 0 {
				word.Reset()
				open, skip = false, false
			}
			endWord()
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if skip {
		word.Reset()
		open = false
	}
	endCommand()
	return all
}

func TestCommandsOf(t *testing.T) {
	for line, want := range map[string]string{
		`brokerctl topic create logs --partitions 6`:                         "brokerctl|topic|create|logs|--partitions|6",
		`seq 1 3 | brokerctl produce logs -k "a b" --receipts > out # hello`: "brokerctl|produce|logs|-k|a b|--receipts",
		`./bin/brokerctl consume x -e > back.log && cmp a b`:                 "./bin/brokerctl|consume|x|-e",
		`broker --config data/broker.yaml &`:                                 "broker|--config|data/broker.yaml",
		`cat x`:                                                              "",
	} {
		got := ""
		if all := commandsOf(line); len(all) > 0 {
			got = strings.Join(all[0], "|")
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}
