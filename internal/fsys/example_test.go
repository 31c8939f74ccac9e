package fsys_test

import (
	"fmt"
	"sort"

	"github.com/penstock-io/penstock/internal/fsys"
)

// What a power loss can leave of a file that was not synced: here the name may be lost, or the contents.
func ExampleMem_Clone() {
	disk := fsys.NewMem(1, fsys.MemOptions{})
	f, err := disk.Create("a")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := f.Append([]byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	seen := make(map[string]bool)
	for seed := range uint64(100) {
		found := disk.Clone(seed).Crash()
		info, err := found.Stat("a")
		seen[fmt.Sprintf("found %t, %d bytes", err == nil, info.Size)] = true
	}
	var lines []string
	for line := range seen {
		lines = append(lines, line)
	}
	sort.Strings(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
	// Output:
	// found false, 0 bytes
	// found true, 0 bytes
	// found true, 5 bytes
}
