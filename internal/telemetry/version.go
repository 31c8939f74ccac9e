package telemetry

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// Set at link time: -ldflags "-X github.com/penstock-io/penstock/internal/telemetry.version=v1.2.3 -X ...revision=...".
var (
	version  string
	revision string
)

// unknown stands where neither the linker nor the build information says anything.
const unknown = "unknown"

// BuildInfo tells which sources a binary was built from. No field is empty.
type BuildInfo struct {
	Version   string // such as v0.3.0, or devel
	Revision  string // the commit, with "-dirty" where files were changed, or unknown
	GoVersion string
	Platform  string // such as linux/amd64
}

// Version is the version of the binary, such as v0.3.0, or devel.
func Version() string { return Build().Version }

// Build tells which sources this binary was built from: what the linker was told comes first, what the Go tool
// recorded second.
func Build() BuildInfo { return build() }

var build = sync.OnceValue(func() BuildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return describe(version, revision, info)
})

func describe(version, revision string, recorded *debug.BuildInfo) BuildInfo {
	info := BuildInfo{
		Version: version, Revision: revision,
		GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info.Version == "" {
		info.Version = recorded.Main.Version
	}
	if info.Version == "" || info.Version == "(devel)" {
		info.Version = "devel"
	}
	if info.Revision == "" {
		info.Revision = recordedRevision(recorded)
	}
	return info
}

func recordedRevision(recorded *debug.BuildInfo) string {
	revision, dirty := unknown, false
	for _, setting := range recorded.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value
		case "vcs.modified":
			dirty = setting.Value == "true"
		}
	}
	if dirty && revision != unknown {
		revision += "-dirty"
	}
	return revision
}
