package documents

// section ties the blocks below a heading of a document to the test that runs them all, also those that come there later.
type section struct {
	document, heading string
	test              string // name of the test
	dir               string // directory of its package, from the root
}

var sections = []section{
	{"README.md", "A first session", "TestReadme", "internal/testcluster/chaos"},
	{"docs/deploy.md", "Three nodes in containers", "TestCompose", "deploy"},
	{"docs/operations.md", "Is it alive, does it serve?", "TestTheCommandsOfTheDocument", "cmd/broker"},
	{"docs/operations.md", "Logs", "TestTheCommandsOfTheDocument", "cmd/broker"},
	{"docs/operations.md", "What to alarm on", "TestTheCommandsOfTheDocument", "cmd/broker"},
	{"examples/python/README.md", "A first session", "TestPython", "examples/python"},
}

// account says what becomes of a single command line: one of test, ci and short is set.
type account struct {
	test   string // the test that takes it by Lines and runs it
	dir    string // the directory of that test's package
	engine bool   // that test is skipped where there is no container engine
	ci     string // the line of .ci/run that runs it, or its beginning; TestCommandsOfCI holds it against that
	short  *form
}

// form is how TestShortForms runs a line: in whole or, where it would take long or write into the working copy, with smaller figures.
type form struct {
	edit  []string // old and new text by turns
	add   string   // at the end
	shows string   // regular expression that the output matches when the line did what it is for; empty is nothing to see
}

func runBy(dir, test string) account         { return account{test: test, dir: dir} }
func runByContainers(test string) account    { return account{test: test, dir: "deploy", engine: true} }
func runByCI(line string) account            { return account{ci: line} }
func short(add string, f form) account       { f.add = add; return account{short: &f} }
func edited(from, to string, f form) account { f.edit = []string{from, to}; return account{short: &f} }

const (
	chaosDir = "internal/testcluster/chaos"
	mendDir  = "internal/documents/mend"
	one      = "./internal/lifecycle" // a package that is quickly tested
)

var (
	oneTested = form{shows: `(?m)^ok\s+\S+/internal/lifecycle\s`}
	onceRun   = form{shows: `(?m)^Benchmark\S+\s+1\s`}
)

// passed is the form of a line that runs one test.
func passed(test string) form { return form{shows: "(?m)^--- PASS: " + test + " "} }

// lines are the single commands: those of blocks that are no session, and those in the text. They stand here as they are shown.
var lines = map[string]account{
	"make run": runBy(chaosDir, "TestMakeRun"),

	"make test":                   short("PACKAGES="+one, oneTested),
	"make test-race":              runByCI("make test-race"),
	"make build":                  short(`BIN="$SCRATCH" && "$SCRATCH"/broker version && "$SCRATCH"/brokerctl --version`, form{shows: `(?s)penstock .*brokerctl version `}),
	"make verify":                 runByCI("make verify"),
	"make fix":                    runBy(mendDir, "TestFix"),
	"make generate":               runBy(mendDir, "TestGenerate"),
	"make chaos":                  runByCI("make chaos"),
	"make fuzz":                   runByCI("make fuzz"),
	"make fuzz FUZZTIME=30s":      runByCI("make fuzz FUZZTIME=200x"),
	"make bench BENCH=Append":     runByCI("make bench BENCH=Append"),
	"make image":                  runByContainers("TestReleaseImage"),
	"make up":                     runByContainers("TestCompose"),
	"make down":                   runByContainers("TestCompose"),
	"make test-compose":           runByCI("make test-compose"),
	"make release":                runBy("deploy", "TestRelease"),
	"make release VERSION=v0.2.0": runBy("deploy", "TestRelease"),
	"make sim":                    short("SIM_CORE=20 SIM_STORAGE=2 SIM_MODEL=500 SIM_SWEEP=64 SIM_WRITERS=16", form{}),
	"make sim-planted":            runByCI("make sim-planted"),

	"go test ./internal/sim": short("-run '^TestSim$' -sim.core=20 -sim.storage=2", form{}),
	"go test ./internal/sim -run '^TestSim$' -sim.core=1000 -sim.storage=0 -sim.first=7000": edited("=1000", "=20", form{}),
	"go test ./internal/sim -v -run '^TestSim$' -sim.mode=core -sim.seed=1234 > trace.txt":  edited("trace.txt", `"$SCRATCH"/trace.txt && wc -l < "$SCRATCH"/trace.txt`, form{shows: `(?m)^\s*\d{4,}$`}),
	"go test ./internal/sim -run TestSim -sim.seed=N -sim.mode=core":                        edited("=N", "=1234", form{}),
	"go test -short ./...":                                             edited("./...", one, oneTested),
	"go test ./internal/testcluster/chaos -v":                          short("-run '^TestFollowerKill$'", passed("TestFollowerKill")),
	"go test ./internal/testcluster/chaos -v -chaos.long -timeout 60m": short("-run '^TestGrpcurl$'", passed("TestGrpcurl")),
	"go test ./internal/testcluster/chaos -v -run TestLeaderKills":     runByCI("go test ./internal/testcluster/chaos -v -run TestLeaderKills"),
	"go test -run xxx -bench 'Speed|ManyLogs|SyncMany|PageCache|Direct|ReadAhead|IdleLogs' -benchtime 15x ./internal/storage": edited("'Speed|ManyLogs|SyncMany|PageCache|Direct|ReadAhead|IdleLogs' -benchtime 15x", "'SyncMany/partitions-16$' -benchtime 1x", onceRun),
	"go test -run xxx -bench 'Beside' -benchtime 21x ./internal/storage":                                                      edited("'Beside' -benchtime 21x", "'ReadBesideCleaning' -benchtime 1x", onceRun),
	`go build -tags planted -ldflags "-X main.plant=leader-acks-alone" ./cmd/broker`:                                          runBy(chaosDir, "TestPlantedLeaderAcksAlone"),

	"docker build -f deploy/Dockerfile -t penstock:local .": runBy("deploy", "TestDockerfile"),
	"docker kill": runByContainers("TestCompose"),
	"docker load": runByContainers("TestReleaseImage"),

	"apt-get install python3-grpcio protobuf-compiler protobuf-compiler-grpc": runBy("examples/python", "TestPackages"),
	"pip install grpcio grpcio-tools protobuf":                                runBy("examples/python", "TestPackages"),
}
