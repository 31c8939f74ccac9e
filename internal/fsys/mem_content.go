package fsys

import "math/rand/v2"

// PageSize is the unit in which the in-memory file system writes back, keeps or loses file contents, in bytes.
const PageSize = 4096

// pageKind says how the cached page of a file stands to its durable twin.
type pageKind uint8

const (
	// pageClean was written back, or never written: reading it after a crash gives the durable contents.
	pageClean pageKind = iota
	// pageDirty will be written by the next sync; a crash may or may not find it written.
	pageDirty
	// pageDropped was dirty when a sync failed: it reads back from the cache, no sync writes it, a crash loses it.
	pageDropped
)

// page is the state of one cached page.
type page struct {
	kind pageKind
	// cut is where, within the page, the first append ended since the page became dirty, 0 for none: background
	// write-back may have written the page as it was then and not since. What was overwritten later is in that part, so
	// an overwritten page that was dirty has none.
	cut int
}

// span is a range of bytes, end excluded.
type span struct{ start, end int64 }

// content is what a file holds: in the page cache and on the device. It is a plain value without locks.
type content struct {
	cached  []byte // what reads see; its length is the file's size
	durable []byte // what the device holds for certain
	pages   []page // one a page of cached
	// cutTo is the smallest size the file was truncated to since its last sync, where that is below the durable
	// size; -1 otherwise.
	cutTo int64
	bad   []span // ranges that the device cannot read
}

// write puts the first n bytes of the buffers at an offset that is not past the end.
func (c *content) write(at int64, bufs [][]byte, n int) {
	if n == 0 {
		return
	}
	end := at + int64(n)
	c.extend(end)
	dst := c.cached[at:end]
	for _, b := range bufs {
		dst = dst[copy(dst, b):]
	}
	for i := at / PageSize; i <= (end-1)/PageSize; i++ {
		c.pages[i].kind = pageDirty
	}
	if tail := int(end % PageSize); tail != 0 {
		if last := &c.pages[end/PageSize]; last.cut == 0 {
			last.cut = tail
		}
	}
	c.mend(at, end)
}

// overwrite is write over bytes that are there already.
func (c *content) overwrite(at int64, bufs [][]byte, n int) {
	if n == 0 {
		return
	}
	first, last := at/PageSize, (at+int64(n)-1)/PageSize
	wasClean := c.pages[last].kind == pageClean
	c.write(at, bufs, n)
	for i := first; i < last || i == last && !wasClean; i++ {
		c.pages[i].cut = 0
	}
}

// extend makes the file at least size bytes long, with zeros.
func (c *content) extend(size int64) {
	if size <= int64(len(c.cached)) {
		return
	}
	c.cached = grow(c.cached, int(size))
	for len(c.pages) < pageCount(size) {
		c.pages = append(c.pages, page{kind: pageClean})
	}
}

// truncate cuts the file to a size that is not above its own.
func (c *content) truncate(size int64) {
	c.mend(size, int64(len(c.cached)))
	c.cached = c.cached[:size]
	c.pages = c.pages[:pageCount(size)]
	if tail := int(size % PageSize); tail != 0 {
		last := &c.pages[len(c.pages)-1]
		last.kind = pageDirty
		if last.cut >= tail || size < int64(len(c.durable)) { // what was there before shows past an overwritten part
			last.cut = 0
		}
	}
	if size < int64(len(c.durable)) && (c.cutTo < 0 || size < c.cutTo) {
		c.cutTo = size
	}
}

// mend forgets the unreadable ranges that touch a range.
func (c *content) mend(start, end int64) {
	kept := c.bad[:0]
	for _, s := range c.bad {
		if s.end <= start || end <= s.start {
			kept = append(kept, s)
		}
	}
	c.bad = kept
}

// settleCut makes a truncation durable.
func (c *content) settleCut() {
	if c.cutTo >= 0 {
		c.durable = c.durable[:c.cutTo]
		c.cutTo = -1
	}
}

// sync writes the dirty pages and the size to the device.
func (c *content) sync() {
	c.settleCut()
	c.durable = grow(c.durable, len(c.cached))
	for i := range c.pages {
		if c.pages[i].kind == pageDirty {
			c.land(i)
			c.pages[i] = page{kind: pageClean}
		}
	}
}

// land writes one page to the device, which grows to hold it.
func (c *content) land(i int) {
	start, end := c.bounds(i)
	c.durable = grow(c.durable, end)
	copy(c.durable[start:end], c.cached[start:end])
}

// bounds are the first byte of a page and the end of what the file has of it.
func (c *content) bounds(i int) (start, end int) {
	start = i * PageSize
	return start, min(start+PageSize, len(c.cached))
}

// failSync is a sync in which the device failed: of the dirty pages some were written and at least one was not. Those
// are dropped: they stay in the cache as if they were clean or, with revert, read as the device has them.
func (c *content) failSync(rng *rand.Rand, revert bool, stats *MemStats) {
	c.settleCut()
	var dirty []int
	for i := range c.pages {
		if c.pages[i].kind == pageDirty {
			dirty = append(dirty, i)
		}
	}
	if len(dirty) == 0 {
		return
	}
	victim := rng.IntN(len(dirty))
	for k, i := range dirty {
		if k != victim && rng.IntN(2) == 0 {
			c.land(i)
			c.pages[i] = page{kind: pageClean}
			continue
		}
		stats.PagesDropped++
		c.pages[i] = page{kind: pageDropped}
		if revert {
			c.revert(i)
		}
	}
}

// revert makes a page read as the device has it, zeros past the device's end.
func (c *content) revert(i int) {
	start, end := c.bounds(i)
	clear(c.cached[start:end])
	if start < len(c.durable) {
		copy(c.cached[start:end], c.durable[start:])
	}
	c.pages[i] = page{kind: pageClean}
}

// crash turns the contents into what a power loss leaves of them. Each dirty page was written, or was written as it
// stood earlier, or was not, on its own; an unsynced truncation happened or did not; the size covers what was written
// and may cover all that was in the cache, with zeros.
func (c *content) crash(rng *rand.Rand, stats *MemStats) {
	base := c.durable
	if c.cutTo >= 0 && rng.IntN(2) == 0 {
		base = base[:c.cutTo]
	} else if c.cutTo >= 0 {
		stats.TruncationsUndone++
	}
	out := append(make([]byte, 0, max(len(base), len(c.cached))), base...)
	odds := pickOdds(rng)
	for i, p := range c.pages {
		if p.kind != pageDirty {
			continue
		}
		if !odds.hit(rng) {
			stats.PagesLost++
			continue
		}
		stats.PagesKept++
		start, end := c.bounds(i)
		if p.cut > 0 && start+p.cut < end && rng.IntN(4) == 0 {
			stats.PagesTorn++
			end = start + p.cut
		}
		out = grow(out, end)
		copy(out[start:end], c.cached[start:end])
		if end == len(c.cached) || c.cutTo >= 0 && c.cutTo < int64(start+PageSize) {
			clear(out[end:min(len(out), start+PageSize)]) // the cached page held zeros past its end
		}
	}
	if len(out) < len(c.cached) && rng.IntN(4) == 0 {
		out = grow(out, len(c.cached))
	}
	*c = content{
		cached: out, durable: append([]byte(nil), out...), pages: make([]page, pageCount(int64(len(out)))),
		cutTo: -1, bad: c.bad,
	}
}

// unreadable returns how many of n bytes at an offset can be read before an unreadable range begins, and whether one
// does.
func (c *content) unreadable(at int64, n int) (int, bool) {
	end, hit := at+int64(n), false
	for _, s := range c.bad {
		if s.start < end && at < s.end {
			end, hit = max(at, s.start), true
		}
	}
	return int(end - at), hit
}

// clone copies the contents.
func (c *content) clone() content {
	return content{
		cached:  append([]byte(nil), c.cached...),
		durable: append([]byte(nil), c.durable...),
		pages:   append([]page(nil), c.pages...),
		cutTo:   c.cutTo,
		bad:     append([]span(nil), c.bad...),
	}
}

// odds is a probability in eighths, drawn once a crash and file, so that crashes that keep all, nothing, nearly all or
// nearly nothing are as common as those that keep about a half.
type odds int

// pickOdds draws one.
func pickOdds(rng *rand.Rand) odds { return []odds{0, 1, 4, 4, 7, 8}[rng.IntN(6)] }

// hit draws with these odds.
func (o odds) hit(rng *rand.Rand) bool { return rng.IntN(8) < int(o) }

// pageCount is how many pages hold size bytes.
func pageCount(size int64) int { return int((size + PageSize - 1) / PageSize) }

// grow makes b at least n bytes long, with zeros.
func grow(b []byte, n int) []byte {
	old := len(b)
	if n <= old {
		return b
	}
	if n <= cap(b) {
		b = b[:n]
		clear(b[old:])
		return b
	}
	return append(b, make([]byte, n-old)...)
}
