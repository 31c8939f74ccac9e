package resources

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// machine is a root file system; lines of the values are those of the files.
type machine map[string]string

func (m machine) fs() fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range m {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

const (
	mountV2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
	mountV1 = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n" +
		"35 31 0:31 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n" +
		"36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)

func TestCgroupMemory(t *testing.T) {
	for name, c := range map[string]struct {
		machine machine
		want    int64
		file    string
	}{
		"no control groups": {machine{}, 0, ""},
		"version 2, in a container": {machine{
			cgroupFile: "0::/\n", mountsFile: mountV2, "sys/fs/cgroup/memory.max": "536870912\n",
		}, 536870912, "/sys/fs/cgroup/memory.max"},
		"version 2, the group above is smaller": {machine{
			cgroupFile: "0::/a.slice/b.service\n", mountsFile: mountV2, "sys/fs/cgroup/a.slice/b.service/memory.max": "2000000000\n",
			"sys/fs/cgroup/a.slice/memory.max": "1000000000\n",
		}, 1000000000, "/sys/fs/cgroup/a.slice/memory.max"},
		"version 2, the own group is smaller": {machine{
			cgroupFile: "0::/a.slice/b.service\n", mountsFile: mountV2, "sys/fs/cgroup/a.slice/b.service/memory.max": "1000\n",
			"sys/fs/cgroup/a.slice/memory.max": "max\n",
		}, 1000, "/sys/fs/cgroup/a.slice/b.service/memory.max"},
		"version 2, throttled below the maximum": {machine{
			cgroupFile: "0::/x\n", mountsFile: mountV2, "sys/fs/cgroup/x/memory.max": "2000\n", "sys/fs/cgroup/x/memory.high": "1500\n",
		}, 1500, "/sys/fs/cgroup/x/memory.high"},
		"version 2, unlimited": {machine{
			cgroupFile: "0::/x/y\n", mountsFile: mountV2, "sys/fs/cgroup/x/y/memory.max": "max\n", "sys/fs/cgroup/x/memory.max": "max\n",
		}, 0, ""},
		"version 2, moved out of the namespace": {machine{
			cgroupFile: "0::/../other\n", mountsFile: mountV2, "sys/fs/cgroup/memory.max": "3000\n",
		}, 3000, "/sys/fs/cgroup/memory.max"},
		"version 2 elsewhere, with a blank": {machine{
			cgroupFile: "0::/x\n", mountsFile: `30 23 0:26 / /my\040groups rw - cgroup2 none rw` + "\n", "my groups/x/memory.max": "4000\n",
		}, 4000, "/my groups/x/memory.max"},
		"version 1, nested": {machine{
			cgroupFile: "4:memory:/a/b\n1:cpu:/c\n0::/\n", mountsFile: mountV1, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "700000000\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, 700000000, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes"},
		"version 1, in a container that sees the names of the host": {machine{
			cgroupFile: "9:memory:/docker/abc\n", mountsFile: strings.Replace(mountV1, "0:32 /", "0:32 /docker/abc", 1),
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
		}, 268435456, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		"version 1, a group below the one that is mounted": {machine{
			cgroupFile: "9:memory:/docker/abc/d\n", mountsFile: strings.Replace(mountV1, "0:32 /", "0:32 /docker/abc", 1),
			"sys/fs/cgroup/memory/d/memory.limit_in_bytes": "5000\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000\n",
		}, 5000, "/sys/fs/cgroup/memory/d/memory.limit_in_bytes"},
		"version 1, mounted with other controllers": {machine{
			cgroupFile: "3:cpu,memory:/a\n", mountsFile: "36 31 0:32 / /cg rw shared:1 master:2 - cgroup none rw,cpu,memory\n",
			"cg/a/memory.limit_in_bytes": "7000\n",
		}, 7000, "/cg/a/memory.limit_in_bytes"},
		"both versions": {machine{
			cgroupFile: "4:memory:/a\n0::/u\n", mountsFile: mountV1 + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9000\n", "sys/fs/cgroup/unified/u/memory.max": "8000\n",
		}, 8000, "/sys/fs/cgroup/unified/u/memory.max"},
		"mounts are not known": {machine{
			cgroupFile: "0::/x\n", "sys/fs/cgroup/x/memory.max": "8000\n",
		}, 8000, "/sys/fs/cgroup/x/memory.max"},
	} {
		got, file, err := CgroupMemory(c.machine.fs())
		if got != c.want || file != c.file || err != nil {
			t.Errorf("%s: %d %s %v, want %d %s", name, got, file, err, c.want, c.file)
		}
	}
}

func TestABrokenLimitIsAnError(t *testing.T) {
	for _, text := range []string{"", "many", "-5", "1 2", "0x10"} {
		limit, _, err := CgroupMemory(machine{cgroupFile: "0::/\n", mountsFile: mountV2, "sys/fs/cgroup/memory.max": text}.fs())
		if err == nil || limit != 0 || !strings.Contains(err.Error(), "/sys/fs/cgroup/memory.max") {
			t.Errorf("%q: %d %v", text, limit, err)
		}
	}
}

// The real machine can be read, whatever it has.
func TestThisMachine(t *testing.T) {
	limit, file, err := CgroupMemory(os.DirFS("/"))
	if err != nil || limit < 0 || (limit > 0) != (file != "") {
		t.Errorf("%d %q %v", limit, file, err)
	}
}

func FuzzCgroupMemory(f *testing.F) {
	f.Add("4:memory:/a/b\n0::/x\n", mountV1+mountV2, "1000")
	f.Add("9:memory:/docker/abc\n", strings.Replace(mountV1, "0:32 /", "0:32 /docker/abc", 1), "max")
	f.Add("0::/../..\n", `1 2 3:4 / /\134\040 rw - cgroup2`, "99999999999999999999")
	f.Fuzz(func(t *testing.T, groups, mounts, limit string) {
		files := machine{cgroupFile: groups, mountsFile: mounts}
		for _, name := range []string{
			"sys/fs/cgroup/memory.max", "sys/fs/cgroup/x/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes",
			"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
		} {
			files[name] = limit
		}
		got, file, err := CgroupMemory(files.fs())
		if got < 0 || got >= unlimited || (got > 0) != (file != "") || (err != nil && got != 0) {
			t.Errorf("%d %q %v", got, file, err)
		}
	})
}
