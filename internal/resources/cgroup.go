package resources

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Files that the limits of control groups are found by, in the file system of the machine.
const (
	cgroupFile = "proc/self/cgroup"
	mountsFile = "proc/self/mountinfo"
)

// unlimited is what version 1 says where there is no limit, or more: it rounds down to a page.
const unlimited = 1 << 60

// hierarchy is one tree of control groups as this process sees it.
type hierarchy struct {
	point string   // where it is mounted, without the slash at the beginning
	below string   // the group of the process, relative to that
	files []string // what holds limits in each directory
}

// CgroupMemory returns the smallest memory limit of the control group of this process and of the groups above it, in bytes, and
// the file that holds it; 0 where there is none. Versions 1 and 2 are looked at, with and without a namespace of control
// groups. root is the root of the machine's file system.
func CgroupMemory(root fs.FS) (limit int64, file string, err error) {
	groups, err := read(root, cgroupFile)
	if err != nil || groups == nil {
		return 0, "", err
	}
	mounts, err := read(root, mountsFile)
	if err != nil {
		return 0, "", err
	}
	for _, h := range hierarchies(groups, mounts) {
		for dir := path.Join(h.point, h.below); ; dir = path.Dir(dir) {
			for _, name := range h.files {
				n, err := limitIn(root, path.Join(dir, name))
				if err != nil {
					return 0, "", err
				}
				if n > 0 && (limit == 0 || n < limit) {
					limit, file = n, "/"+path.Join(dir, name)
				}
			}
			if dir == h.point || len(dir) < len(h.point) {
				break
			}
		}
	}
	return limit, file, nil
}

// read returns nil where the file is not there, as on systems without control groups.
func read(root fs.FS, name string) ([]byte, error) {
	text, err := fs.ReadFile(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the memory limit of the control group: %w", err)
	}
	return text, nil
}

// limitIn reads one limit; 0 is none. The root of a hierarchy has no such file.
func limitIn(root fs.FS, name string) (int64, error) {
	text, err := read(root, name)
	if err != nil || text == nil {
		return 0, err
	}
	word := string(bytes.TrimSpace(text))
	if word == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("find the memory limit of the control group: /%s holds %q, which is no size", name, truncate(word))
	}
	if n >= unlimited {
		return 0, nil
	}
	return int64(n), nil //nolint:gosec // below 1<<60
}

func truncate(text string) string { return text[:min(len(text), 40)] }

// hierarchies finds the trees that can limit memory: the unified one of version 2, and that of version 1 with the
// memory controller.
func hierarchies(groups, mounts []byte) []hierarchy {
	var found []hierarchy
	for line := range bytes.Lines(groups) {
		fields := strings.SplitN(strings.TrimRight(string(line), "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		h := hierarchy{files: []string{"memory.max", "memory.high"}}
		kind, point := "cgroup2", "sys/fs/cgroup"
		if fields[0] != "0" || fields[1] != "" {
			if !hasItem(fields[1], "memory") {
				continue
			}
			kind, point, h.files = "cgroup", "sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}
		}
		top := "/"
		if t, p, ok := mountOf(mounts, kind); ok {
			top, point = t, p
		}
		h.point, h.below = point, below(top, fields[2])
		found = append(found, h)
	}
	return found
}

// below is the path of a group relative to the group that is mounted; where it is not within that, as in a container
// that sees the names of the host, the mounted group is its own.
func below(top, group string) string {
	if strings.Contains(group, "..") {
		return ""
	}
	if top == "/" {
		return strings.Trim(group, "/")
	}
	rest, ok := strings.CutPrefix(group, top)
	if !ok || (rest != "" && rest[0] != '/') {
		return ""
	}
	return strings.Trim(rest, "/")
}

// mountOf finds where a tree of control groups is mounted, and which group of it. Lines of mountinfo are
// "id parent major:minor root point options tags... - type source options".
func mountOf(mounts []byte, kind string) (top, point string, ok bool) {
	for line := range bytes.Lines(mounts) {
		before, after, cut := strings.Cut(string(line), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !cut || len(fields) < 5 || len(tail) < 1 || tail[0] != kind {
			continue
		}
		if kind == "cgroup" && (len(tail) < 3 || !hasItem(tail[2], "memory")) {
			continue
		}
		point = strings.Trim(path.Clean(unescape(fields[4])), "/")
		if fs.ValidPath(point) {
			return path.Clean(unescape(fields[3])), point, true
		}
	}
	return "", "", false
}

func hasItem(list, item string) bool {
	for one := range strings.SplitSeq(list, ",") {
		if one == item {
			return true
		}
	}
	return false
}

// unescape undoes mountinfo's octal forms of blanks and backslashes.
func unescape(text string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(text)
}
