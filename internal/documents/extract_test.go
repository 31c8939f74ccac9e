package documents

import (
	"slices"
	"strings"
	"testing"
)

const madeUp = "# A page\n\nFirst `make world` and `go\nrun ./cmd/x`, `topic`, `make`.\n\n" +
	"```sh\n$ brokerctl   topic list # all of them\necho 'a  # b' | \\\n  cat\n\n# nothing\n```\n\n" +
	"## Labels\n\n```\nunlabelled\n```\n~~~ console\ntilde\n~~~\n```yaml\nkey: value\n```\n```text\n+---+\n```\n```klingon\nunknown label\n```\n\n" +
	"    indented --flag\n\n    after a blank\n\ttab\n\ntext\n    that goes on, no block\n\n" +
	"- a point\n\n  ```sh\n  in a list\n  ```\n\n> ```sh\n> in a quotation\n> ```\n\n## The end\n```sh\nnever closed\n"

// Nothing that a reader could paste escapes: whatever the fence, the label or the indent.
func TestExtractFindsEveryCommand(t *testing.T) {
	blocks, inText := Extract("page.md", madeUp)
	var got []string
	for _, b := range blocks {
		for _, command := range b.Commands() {
			got = append(got, b.Heading+": "+command)
		}
	}
	want := []string{
		"A page: brokerctl topic list", "A page: echo 'a  # b' | cat",
		"Labels: unlabelled", "Labels: tilde", "Labels: unknown label", "Labels: indented --flag", "Labels: after a blank", "Labels: tab",
		"Labels: in a list", "Labels: in a quotation",
		"The end: never closed",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(inText) != 2 || inText[0] != (Span{"page.md", 3, "make world"}) || inText[1] != (Span{"page.md", 3, "go run ./cmd/x"}) {
		t.Errorf("between backquotes: %+v", inText)
	}
	if blocks[0].Line != 7 || !strings.HasPrefix(strings.Split(madeUp, "\n")[6], "$ brokerctl") {
		t.Errorf("the first block begins in line %d", blocks[0].Line)
	}
}

// A document that gains a command fails, wherever it stands; but in a session it is run with the others.
func TestACommandThatNobodyRunsIsFound(t *testing.T) {
	const page = "# Page\n\n## Session\n\n```sh\nbrokerctl topic list\n```\n\n## Other\n\n```sh\nmake known\n```\n"
	table := []section{{"page.md", "Session", "TestSession", "dir"}}
	known := map[string]account{"make known": runByCI("make known")}
	look := func(text string) string {
		blocks, inText := Extract("page.md", text)
		return strings.Join(unaccounted(table, known, blocks, inText), "\n")
	}
	if found := look(page); found != "" {
		t.Errorf("everything is accounted for, and yet: %s", found)
	}
	for gained, where := range map[string]string{
		page + "\n```sh\nmake unknown\n```\n":                                        "page.md:16:",
		page + "\n    brokerctl topic delete logs\n":                                 "page.md:15:",
		page + "\n```\nmake known X=1\n```\n":                                        "page.md:16:",
		page + "\nNow type `make unknown`.\n":                                        "page.md:15:",
		strings.Replace(page, "make known", "make known\nrm -rf data", 1):            "page.md:12:",
		strings.Replace(page, "## Session", "## Session renamed", 1):                 "page.md:6:",
		strings.Replace(page, "```sh\nmake known", "```text\nx\n```\n\n    rm x", 1): "page.md:15:",
	} {
		if found := look(gained); !strings.HasPrefix(found, where) || strings.Contains(found, "\n") {
			t.Errorf("looked for one command at %s, found %q in\n%s", where, found, gained)
		}
	}
	more := strings.Replace(page, "brokerctl topic list", "brokerctl topic list\nbrokerctl broker list", 1)
	blocks, _ := Extract("page.md", more)
	if found := look(more); found != "" || !strings.Contains(blocks[0].Text, "broker list") {
		t.Errorf("a session takes new commands: %s", found)
	}
}
