package fsys

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"syscall"
)

// node is a file or a directory.
type node struct {
	dir     bool
	content content // of a file
	links   int     // names of a file, as processes see them
	opens   int     // open handles of a file

	cached  map[string]*node // of a directory: what processes see
	durable map[string]*node // of a directory: what the device holds for certain
	// deaf says that a sync of the directory failed and that its later syncs succeed without doing anything.
	deaf bool
}

// newDir makes an empty directory.
func newDir() *node {
	return &node{dir: true, cached: make(map[string]*node), durable: make(map[string]*node)}
}

// newFile makes an empty file.
func newFile() *node { return &node{content: content{cutTo: -1}} }

// children returns the names of a directory in order.
func children(names map[string]*node) []string { return slices.Sorted(maps.Keys(names)) }

// change is one change of directory entries that is not durable yet: a creation (add only), a removal (drop only) or
// a rename (both). It takes place as a whole or not at all.
type change struct {
	node     *node
	addDir   *node
	addName  string
	dropDir  *node
	dropName string
	replaced *node // the file that a rename replaced
	fresh    bool  // the added name must be free: a creation
}

// touches says whether the change is one of a directory's entries.
func (c *change) touches(dir *node) bool { return c.addDir == dir || c.dropDir == dir }

// sharesName says whether both changes are about one name.
func (c *change) sharesName(other *change) bool {
	same := func(dir *node, name string) bool {
		return dir != nil && (dir == other.addDir && name == other.addName || dir == other.dropDir && name == other.dropName)
	}
	return same(c.addDir, c.addName) || same(c.dropDir, c.dropName)
}

// deaf says whether every directory of the change ignores its syncs.
func (c *change) deaf() bool {
	return (c.addDir == nil || c.addDir.deaf) && (c.dropDir == nil || c.dropDir.deaf)
}

// apply changes the durable entries.
func (c *change) apply() {
	if c.dropDir != nil && c.dropDir.durable[c.dropName] == c.node {
		delete(c.dropDir.durable, c.dropName)
	}
	if c.addDir != nil {
		c.addDir.durable[c.addName] = c.node
	}
}

// possible says whether the change can have taken place on the durable tree as it is, with earlier changes lost.
func (c *change) possible(root *node) bool {
	if c.dropDir != nil && c.dropDir.durable[c.dropName] != c.node {
		return false
	}
	if c.addDir == nil {
		return !c.node.dir || len(c.node.durable) == 0
	}
	if old := c.addDir.durable[c.addName]; old != nil && (c.fresh || old.dir || c.node.dir) {
		return false
	} else if old != nil && old != c.replaced && old.links > 0 {
		return false // it had been moved away, and that was lost
	}
	if c.dropDir == nil {
		return true
	}
	// A rename moves what exists: never to a place that a crash loses, nor into itself.
	return reaches(root, c.addDir) && (!c.node.dir || !reaches(c.node, c.addDir))
}

// reaches says whether a directory is another one or below it, on the device.
func reaches(from, to *node) bool {
	if from == to {
		return true
	}
	for _, child := range from.durable { // the answer does not depend on the order
		if child.dir && reaches(child, to) {
			return true
		}
	}
	return false
}

// tree is the name space: the entries processes see, those on the device, and the changes between the two.
type tree struct {
	root    *node
	pending []*change
}

// link makes a new name.
func (t *tree) link(dir *node, name string, n *node) {
	dir.cached[name] = n
	n.links++
	t.pending = append(t.pending, &change{node: n, addDir: dir, addName: name, fresh: true})
}

// unlink removes a name.
func (t *tree) unlink(dir *node, name string) *node {
	n := dir.cached[name]
	delete(dir.cached, name)
	n.links--
	t.pending = append(t.pending, &change{node: n, dropDir: dir, dropName: name})
	return n
}

// rename moves a name and returns the file it replaced, nil for none.
func (t *tree) rename(oldDir *node, oldName string, newDir *node, newName string) *node {
	n, replaced := oldDir.cached[oldName], newDir.cached[newName]
	delete(oldDir.cached, oldName)
	newDir.cached[newName] = n
	if replaced != nil {
		replaced.links--
	}
	t.pending = append(t.pending,
		&change{node: n, addDir: newDir, addName: newName, dropDir: oldDir, dropName: oldName, replaced: replaced})
	return replaced
}

// find returns the node of a cleaned path.
func (t *tree) find(name string) (*node, error) {
	n := t.root
	for part := range strings.SplitSeq(strings.TrimPrefix(name, "/"), "/") {
		if part == "" {
			continue // the root
		}
		if !n.dir {
			return nil, syscall.ENOTDIR
		}
		next := n.cached[part]
		if next == nil {
			return nil, fs.ErrNotExist
		}
		n = next
	}
	return n, nil
}

// parent returns the directory of a cleaned path and the path's last element.
func (t *tree) parent(name string) (*node, string, error) {
	if name == "/" {
		return nil, "", fs.ErrInvalid
	}
	dir, err := t.find(path.Dir(name))
	if err != nil {
		return nil, "", err
	}
	if !dir.dir {
		return nil, "", syscall.ENOTDIR
	}
	return dir, path.Base(name), nil
}

// sync makes durable the pending changes that are wanted, and those they cannot be without.
func (t *tree) sync(wanted func(*change) bool) {
	forced := t.closure(wanted)
	kept := t.pending[:0]
	for i, c := range t.pending {
		if forced[i] {
			c.apply()
		} else {
			kept = append(kept, c)
		}
	}
	clear(t.pending[len(kept):])
	t.pending = kept
}

// closure marks the wanted changes and, before each, the earlier ones of the same names; for the removal of a
// directory all of that directory; for a rename those that make its target reachable. Without them a file that had a durable
// name could end without any.
func (t *tree) closure(wanted func(*change) bool) []bool {
	forced, reach := make([]bool, len(t.pending)), make([]bool, len(t.pending))
	for i := len(t.pending) - 1; i >= 0; i-- {
		c := t.pending[i]
		forced[i] = forced[i] || wanted(c)
		if !forced[i] {
			continue
		}
		renames, removesDir := c.addDir != nil && c.dropDir != nil, c.addDir == nil && c.node.dir
		reach[i] = reach[i] || renames
		for j, earlier := range t.pending[:i] {
			if earlier.sharesName(c) || renames && c.node.dir || removesDir && earlier.touches(c.node) {
				forced[j] = true
			}
			if reach[i] && earlier.node == c.addDir {
				forced[j], reach[j] = true, true
			}
		}
	}
	return forced
}

// crash turns the tree into what a power loss leaves of it: of the pending changes each took place or did not, as far
// as the others allow.
func (t *tree) crash(rng *rand.Rand, stats *MemStats) {
	o := pickOdds(rng)
	for _, c := range t.pending {
		if o.hit(rng) && c.possible(t.root) {
			stats.NamesKept++
			c.apply()
			continue
		}
		stats.NamesLost++
	}
	t.pending = nil
	t.walk(true, func(n *node) {
		n.links, n.opens = 0, 0
	})
	t.walk(true, func(n *node) {
		if !n.dir {
			n.content.crash(rng, stats)
			return
		}
		n.deaf = false
		n.cached = maps.Clone(n.durable)
		for _, child := range n.cached { // counting does not depend on the order
			child.links++
		}
	})
}

// walk calls visit for the root and every node below it, in the order of names: those on the device, or those that
// processes see.
func (t *tree) walk(durable bool, visit func(*node)) { walkNode(t.root, durable, visit) }

// walkNode is walk from a node on.
func walkNode(n *node, durable bool, visit func(*node)) {
	visit(n)
	if !n.dir {
		return
	}
	names := n.cached
	if durable {
		names = n.durable
	}
	for _, name := range children(names) {
		walkNode(names[name], durable, visit)
	}
}

// clone copies the tree with all that is pending.
func (t *tree) clone() tree {
	copies := make(map[*node]*node)
	var copyOf func(n *node) *node
	copyOf = func(n *node) *node {
		if n == nil {
			return nil
		}
		if done := copies[n]; done != nil {
			return done
		}
		twin := &node{dir: n.dir, content: n.content.clone(), links: n.links, deaf: n.deaf}
		copies[n] = twin
		if n.dir {
			twin.cached, twin.durable = make(map[string]*node), make(map[string]*node)
			for name, child := range n.cached { // copying does not depend on the order
				twin.cached[name] = copyOf(child)
			}
			for name, child := range n.durable {
				twin.durable[name] = copyOf(child)
			}
		}
		return twin
	}
	twin := tree{root: copyOf(t.root)}
	for _, c := range t.pending {
		moved := *c
		moved.node, moved.addDir, moved.dropDir = copyOf(c.node), copyOf(c.addDir), copyOf(c.dropDir)
		moved.replaced = copyOf(c.replaced)
		twin.pending = append(twin.pending, &moved)
	}
	return twin
}
