package documents

import (
	"regexp"
	"slices"
	"strings"
)

// Block is one block of commands in a document.
type Block struct {
	Document string // path from the root of the repository, with slashes
	Heading  string // text of the heading above, without its marks; empty above the first heading
	Line     int    // of the first line of the text, from 1
	Text     string // as it stands, without fence and indent
}

// Span is one command that stands in the text between backquotes.
type Span struct {
	Document string
	Line     int // where the span begins, from 1
	Command  string
}

// otherLanguages are the labels of fenced blocks that hold no commands. A block without a label, or with one that is not
// known here, is taken for commands: nothing escapes by a missing word.
var otherLanguages = []string{"text", "yaml", "json", "go", "proto", "python", "diff", "mermaid"}

// programsInText are the programs whose command lines are looked for between backquotes. Those of broker and brokerctl are
// held against the programs themselves, see TestDocumentedCommands.
var programsInText = []string{"make", "go", "docker", "docker-compose", "apt-get", "pip", "curl", "grpcurl", "git"}

var (
	fence   = regexp.MustCompile("^(```+|~~~+) *([^ `]*)[^`]*$")
	heading = regexp.MustCompile(`^#{1,6} +(.*?) *#*$`)
	inline  = regexp.MustCompile("`([^`]+)`")
)

// Extract finds the blocks and spans of commands of a document: fenced blocks, unless their label names another language, blocks
// indented by four spaces or a tab, and command lines between backquotes.
func Extract(document, text string) ([]Block, []Span) {
	s := scanner{document: document, blank: true}
	for i, line := range strings.Split(text, "\n") {
		s.line(i+1, strings.TrimRight(line, "\r"))
	}
	s.end()
	return s.blocks, spans(document, s.prose)
}

// scanner goes through the lines of a document.
type scanner struct {
	document, heading string
	blocks            []Block
	prose             []string // the lines outside of blocks; blank where a block is
	open              *Block   // the block that goes on
	mark              string   // the fence that ends it; empty where the indent does
	commands          bool     // whether it holds commands
	blank             bool     // the line before was blank, a heading or the end of a block
}

func (s *scanner) line(number int, line string) {
	bare := strings.TrimSpace(strings.TrimLeft(line, "> "))
	if s.open != nil && s.mark != "" {
		s.prose = append(s.prose, "")
		if strings.HasPrefix(bare, s.mark) && strings.Trim(bare, s.mark[:1]) == "" {
			s.end()
			return
		}
		s.open.Text += strings.TrimPrefix(line, "> ") + "\n"
		return
	}
	indented := strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "\t")
	if found := fence.FindStringSubmatch(bare); found != nil {
		s.end()
		s.begin(number+1, found[1], !slices.Contains(otherLanguages, found[2]))
	} else if indented && bare != "" && (s.blank || s.open != nil) {
		if s.open == nil {
			s.begin(number, "", true)
		}
		s.open.Text += strings.TrimPrefix(strings.TrimPrefix(line, "    "), "\t") + "\n"
	} else {
		if bare != "" {
			s.end()
		}
		found := heading.FindStringSubmatch(line)
		if found != nil {
			s.heading = found[1]
		}
		s.blank = bare == "" || found != nil
		s.prose = append(s.prose, line)
		return
	}
	s.prose = append(s.prose, "")
}

func (s *scanner) begin(number int, mark string, commands bool) {
	s.open = &Block{Document: s.document, Heading: s.heading, Line: number}
	s.mark, s.commands = mark, commands
}

func (s *scanner) end() {
	if s.open != nil && s.commands {
		s.blocks = append(s.blocks, *s.open)
	}
	if s.open != nil {
		s.blank = true
	}
	s.open = nil
}

// spans finds the command lines between backquotes; a span may go over the end of a line, not of a paragraph.
func spans(document string, lines []string) []Span {
	var all []Span
	for begin := 0; begin < len(lines); begin++ {
		end := begin
		for end < len(lines) && strings.TrimSpace(lines[end]) != "" {
			end++
		}
		paragraph := strings.Join(lines[begin:end], "\n")
		for _, at := range inline.FindAllStringSubmatchIndex(paragraph, -1) {
			words := strings.Fields(paragraph[at[2]:at[3]])
			if len(words) > 1 && slices.Contains(programsInText, words[0]) {
				line := begin + 1 + strings.Count(paragraph[:at[0]], "\n")
				all = append(all, Span{Document: document, Line: line, Command: strings.Join(words, " ")})
			}
		}
		begin = end
	}
	return all
}

// Commands are the command lines of the block: without comments and prompts, continued lines joined, blanks outside of quotes as one.
func (b Block) Commands() []string {
	var all []string
	for line := range strings.Lines(strings.ReplaceAll(b.Text, "\\\n", " ")) {
		if command := bareCommand(line); command != "" {
			all = append(all, command)
		}
	}
	return all
}

// bareCommand drops the prompt, the comment and superfluous blanks of a shell line.
func bareCommand(line string) string {
	var command strings.Builder
	quote, before := rune(0), ' '
	for _, r := range strings.TrimPrefix(strings.TrimSpace(line), "$ ") {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '\'' || r == '"':
			quote = r
		case r == '#' && before == ' ':
			return strings.TrimSpace(command.String())
		case r == ' ' && before == ' ':
			continue
		}
		command.WriteRune(r)
		before = r
	}
	return strings.TrimSpace(command.String())
}
