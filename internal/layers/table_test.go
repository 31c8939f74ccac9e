package layers

// module is the path of the main module; the tools are a module of their own and not looked at.
const module = "github.com/penstock-io/penstock"

// table gives each package its layer. A package imports only from lower layers, never from its own; sub-packages belong
// to the entry with the longest matching prefix and may import one another.
var table = map[string]int{
	"api/gen":            0, // generated from api/proto
	"internal/model":     0, // named types, error table
	"internal/fsys":      0, // files, real and simulated
	"internal/lifecycle": 0, // goroutine groups, clock
	"internal/telemetry": 0, // logs, metrics, version
	"internal/testports": 0, // ports of loopback for tests
	"internal/documents": 0, // commands of the documents, and who runs them; below it those that write into the working copy

	"internal/config":   1, // settings and their key table
	"internal/record":   1, // RecordBatch
	"internal/metadata": 1, // image, delta, records
	"internal/wire":     1, // gRPC codec and buffer pool

	"internal/storage":    2, // partition log
	"internal/membership": 2, // memberlist wrapper
	"internal/resources":  2, // memory and open files of the process
	"client":              2, // public Go client

	"internal/replication": 3, // partitions, HighWatermark, ISR
	"internal/controller":  3, // Raft quorum that owns the metadata

	"internal/server": 4, // gRPC services
	"internal/peer":   4, // gRPC clients to other nodes

	"internal/broker": 5, // composition root

	"internal/testcluster": 6, // N nodes in a process
	"internal/sim":         6, // seeded simulation

	"cmd":             7, // main packages
	"internal/layers": 7, // these tests

	"deploy":   7, // images, compose cluster and releases, and their tests
	"examples": 7, // clients in other languages, and their tests
}

// testHouses are what tests of any layer may import beside their own layer and the lower ones.
var testHouses = []string{"internal/testcluster"}

// onlyIn gives third-party packages the one place that may import them. Prefixes match whole path elements.
var onlyIn = map[string]string{
	"github.com/hashicorp/raft":           "internal/controller",
	"github.com/hashicorp/raft-boltdb/v2": "internal/controller",
	"go.etcd.io/bbolt":                    "internal/controller",
	"github.com/hashicorp/memberlist":     "internal/membership",
	"github.com/spf13/cobra":              "cmd",
	"github.com/knadh/koanf":              "internal/config",
	"golang.org/x/sync/errgroup":          "internal/lifecycle",
}

// withoutOS are the packages that reach files through internal/fsys alone, or reach none at all. Their tests may make
// temporary directories.
var withoutOS = []string{
	"api/gen", "internal/model", "internal/lifecycle", "internal/record", "internal/metadata", "internal/wire",
	"internal/storage", "internal/membership", "internal/replication", "internal/server", "internal/peer", "client",
}

// goroutineHouse is the one package whose code may contain a go statement. Tests may start goroutines anywhere.
const goroutineHouse = "internal/lifecycle"

// publicPackages show nothing of hiddenInPublic in their exported API.
var publicPackages = []string{"client"}

// hiddenInPublic are packages of the module whose types are no part of the public Go API.
var hiddenInPublic = []string{"api/gen", "internal/record", "internal/wire"}

// Hard limits of size, in lines. The limit of functions does not hold in tests.
const (
	maxFileLines     = 800
	maxFunctionLines = 70
)
