package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// lineReader splits input into records: at \n alone, every other byte kept. A last line without \n is a record, an empty
// line an empty value, and empty input no record at all.
type lineReader struct {
	r    *bufio.Reader
	max  int
	line int64  // number of the line that next returned last, from 1
	long []byte // collects lines that outgrow the reader's buffer
}

// errLineTooLong says that a line went over the limit; it was skipped up to its end, and reading goes on after it.
var errLineTooLong = errors.New("line is too long")

func newLineReader(r io.Reader, maxBytes int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 256<<10), max: maxBytes}
}

// next returns the next line, io.EOF at the end, or errLineTooLong. The bytes are valid until the next call.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, err = l.collect(line)
	}
	switch {
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLineTooLong):
		return nil, err
	case errors.Is(err, io.EOF) && len(line) == 0:
		return nil, io.EOF
	}
	l.line++
	line, _ = bytes.CutSuffix(line, []byte{'\n'})
	if errors.Is(err, errLineTooLong) || len(line) > l.max {
		return nil, errLineTooLong
	}
	return line, nil
}

// collect reads on to the end of a line that begins with part. Past the limit it drops the bytes.
func (l *lineReader) collect(part []byte) ([]byte, error) {
	l.long = append(l.long[:0], part...)
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.long) <= l.max+1 {
			l.long = append(l.long, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case len(l.long) > l.max+1:
			return nil, errLineTooLong
		default:
			return l.long, err
		}
	}
}
