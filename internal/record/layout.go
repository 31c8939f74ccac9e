package record

// layout is one record taken apart without copying: key, value and headers alias the bytes it was parsed from.
type layout struct {
	timestampDelta int64
	offsetDelta    int64
	key, value     []byte // nil = null
	headerCount    int
	headers        []byte // the encoded headers, not yet parsed
}

// What can be wrong with a record; constants, so that the hot path never formats.
const (
	faultLength      = "record length is malformed or leaves the batch"
	faultAttributes  = "record ends before its attributes"
	faultTimestamp   = "timestamp delta is malformed"
	faultOffset      = "offset delta is malformed"
	faultKey         = "key length is malformed or leaves the record"
	faultValue       = "value length is malformed or leaves the record"
	faultHeaderCount = "header count is malformed, too large or cannot fit the record"
	faultHeaderKey   = "header key length is malformed or leaves the record"
	faultHeaderValue = "header value length is malformed or leaves the record"
	faultRecordEnd   = "record has bytes after its last header"
)

// recordSpan returns where the body of the record at p[0:] begins and ends.
func recordSpan(p []byte) (begin, end int, fault string) {
	n, begin := varint32(p, 0)
	if begin < 0 || n < 0 || n > int64(len(p)-begin) {
		return 0, 0, faultLength
	}
	return begin, begin + int(n), ""
}

// parseBody takes the body of one record apart; p is exactly the body, without its length.
func parseBody(p []byte, l *layout) (fault string) {
	if len(p) == 0 {
		return faultAttributes
	}
	i := 1 // the record's attributes have no meaning yet
	if l.timestampDelta, i = varint64(p, i); i < 0 {
		return faultTimestamp
	}
	if l.offsetDelta, i = varint32(p, i); i < 0 {
		return faultOffset
	}
	if l.key, i = nullable(p, i); i < 0 {
		return faultKey
	}
	if l.value, i = nullable(p, i); i < 0 {
		return faultValue
	}
	n, i := varint32(p, i)
	if i < 0 || n < 0 || n > min(int64(len(p)-i)/2, MaxRecordHeaders) {
		return faultHeaderCount
	}
	l.headerCount, l.headers = int(n), p[i:]
	if n == 0 && i != len(p) {
		return faultRecordEnd
	}
	return ""
}

// nullable reads a length and as many bytes at p[i:]; -1 is null. next is -1 when they are not there.
func nullable(p []byte, i int) (b []byte, next int) {
	n, i := varint32(p, i)
	switch {
	case i < 0 || n > int64(len(p)-i) || n < -1:
		return nil, -1
	case n == -1:
		return nil, i
	default:
		end := i + int(n)
		return p[i:end:end], end
	}
}

// parseHeader reads one record header at p[i:].
func parseHeader(p []byte, i int) (key, value []byte, next int, fault string) {
	if key, i = nullable(p, i); i < 0 || key == nil {
		return nil, nil, 0, faultHeaderKey
	}
	if value, i = nullable(p, i); i < 0 {
		return nil, nil, 0, faultHeaderValue
	}
	return key, value, i, ""
}

// checkHeaders walks the record headers of l and keeps nothing.
func (l *layout) checkHeaders() (fault string) {
	i := 0
	for range l.headerCount {
		if _, _, i, fault = parseHeader(l.headers, i); fault != "" {
			return fault
		}
	}
	if i != len(l.headers) {
		return faultRecordEnd
	}
	return ""
}
