package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/penstock-io/penstock/client"
)

// recordFormat renders records by a -f format: %t topic, %p partition, %o offset, %k key, %v value, %h{%k=%v } headers, %d
// timestamp in ms, %%, and the escapes \n \t \xNN \\. Null keys and values render as nothing.
type recordFormat []formatPart

type formatPart struct {
	verb    byte // 0 for literal
	literal string
	header  recordFormat // of %h
}

// parseFormat parses a -f format; headers says that it is the inside of %h{}.
func parseFormat(s string, headers bool) (recordFormat, error) {
	var f recordFormat
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			f = append(f, formatPart{literal: lit.String()})
			lit.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			b, n, err := unescape(s[i:])
			if err != nil {
				return nil, err
			}
			lit.WriteByte(b)
			i += n - 1
		case '%':
			part, n, err := parseVerb(s[i:], headers)
			if err != nil {
				return nil, err
			}
			i += n - 1
			if part.verb == 0 {
				lit.WriteString(part.literal)
				continue
			}
			flush()
			f = append(f, part)
		default:
			lit.WriteByte(s[i])
		}
	}
	flush()
	return f, nil
}

func unescape(s string) (b byte, size int, err error) {
	if len(s) < 2 {
		return 0, 0, usagef("format ends in a single \\; write \\\\")
	}
	switch s[1] {
	case 'n':
		return '\n', 2, nil
	case 't':
		return '\t', 2, nil
	case 'r':
		return '\r', 2, nil
	case '\\':
		return '\\', 2, nil
	case 'x':
		if len(s) >= 4 {
			if raw, err := hex.DecodeString(s[2:4]); err == nil {
				return raw[0], 4, nil
			}
		}
		return 0, 0, usagef(`format: \x needs two hexadecimal digits`)
	}
	return 0, 0, usagef(`format: unknown escape \%c; use \n \t \r \\ \xNN`, s[1])
}

func parseVerb(s string, headers bool) (part formatPart, size int, err error) {
	if len(s) < 2 {
		return part, 0, usagef("format ends in a single %%; write %%%%")
	}
	verbs := "tpokvd"
	if headers {
		verbs = "kv"
	}
	switch v := s[1]; {
	case v == '%':
		return formatPart{literal: "%"}, 2, nil
	case strings.IndexByte(verbs, v) >= 0:
		return formatPart{verb: v}, 2, nil
	case v == 'h' && !headers:
		if len(s) < 3 || s[2] != '{' {
			return part, 0, usagef("format: %%h needs a format for each header, such as %%h{%%k=%%v }")
		}
		end := strings.IndexByte(s, '}')
		if end < 0 {
			return part, 0, usagef("format: %%h{ is not closed by }")
		}
		inner, err := parseFormat(s[3:end], true)
		return formatPart{verb: 'h', header: inner}, end + 1, err
	default:
		return part, 0, usagef("format: unknown verb %%%c; use %%t %%p %%o %%k %%v %%h{%%k=%%v } %%d %%%%", v)
	}
}

// append renders one record behind b.
func (f recordFormat) append(b []byte, r *client.Record) []byte {
	for i := range f {
		switch p := &f[i]; p.verb {
		case 0:
			b = append(b, p.literal...)
		case 't':
			b = append(b, r.Topic...)
		case 'p':
			b = strconv.AppendInt(b, int64(r.Partition), 10)
		case 'o':
			b = strconv.AppendInt(b, r.Offset, 10)
		case 'd':
			b = strconv.AppendInt(b, r.TimestampMs, 10)
		case 'k':
			b = append(b, r.Key...)
		case 'v':
			b = append(b, r.Value...)
		case 'h':
			for _, h := range r.Headers {
				b = p.header.appendHeader(b, h.Key, h.Value)
			}
		}
	}
	return b
}

func (f recordFormat) appendHeader(b []byte, key string, value []byte) []byte {
	for i := range f {
		switch p := &f[i]; p.verb {
		case 0:
			b = append(b, p.literal...)
		case 'k':
			b = append(b, key...)
		case 'v':
			b = append(b, value...)
		}
	}
	return b
}

// jsonBytes marshals as null, as a string where the bytes are UTF-8, else as {"base64": "..."}.
type jsonBytes []byte

// MarshalJSON implements json.Marshaler.
func (b jsonBytes) MarshalJSON() ([]byte, error) {
	switch {
	case b == nil:
		return []byte("null"), nil
	case utf8.Valid(b):
		return json.Marshal(string(b))
	default:
		return json.Marshal(map[string]string{"base64": base64.StdEncoding.EncodeToString(b)})
	}
}

type jsonHeader struct {
	Key   string    `json:"key"`
	Value jsonBytes `json:"value"`
}

// jsonRecord is one line of consume -o json.
type jsonRecord struct {
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp int64        `json:"timestamp"`
	Key       jsonBytes    `json:"key"`
	Value     jsonBytes    `json:"value"`
	Headers   []jsonHeader `json:"headers"`
}

func newJSONRecord(r *client.Record) jsonRecord {
	j := jsonRecord{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.TimestampMs,
		Key: r.Key, Value: r.Value, Headers: make([]jsonHeader, 0, len(r.Headers)),
	}
	for _, h := range r.Headers {
		j.Headers = append(j.Headers, jsonHeader{Key: h.Key, Value: h.Value})
	}
	return j
}
