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

// account says what becomes of a single command line. Exactly one of test, short and dry is set.
type account struct {
	test string   // the test that takes it by Lines and runs it
	dir  string   // the directory of that test's package
	add  string   // short form: TestShortForms runs the line with this at its end
	edit []string // short form: old and new text by turns
	dry  string   // why it is not run; TestDryForms shows that its target, package, test names, flags and variables exist
}

func runBy(dir, test string) account           { return account{test: test, dir: dir} }
func short(add string, edit ...string) account { return account{add: add, edit: edit} }
func dry(reason string) account                { return account{dry: reason} }

const (
	chaosDir   = "internal/testcluster/chaos"
	partOfTest = "it holds the test that would run it"
	partOfCI   = ".ci/run runs it"
	takesLong  = "it takes minutes to an hour"
	containers = "TestCompose runs it where containers may be started"
	writes     = "it writes into the working copy; verify-generated and verify-format run the same and compare"
	justNamed  = "the name of a command in a sentence, without its arguments"
)

// lines are the single commands: those of blocks that are no session, and those in the text. They stand here as they are shown.
var lines = map[string]account{
	"make run": runBy(chaosDir, "TestMakeRun"),

	"make test":                   dry(partOfTest),
	"make test-race":              dry(takesLong + "; it is make test under the race detector"),
	"make build":                  dry("make run, which TestMakeRun runs, does it first"),
	"make verify":                 dry(partOfCI),
	"make fix":                    dry(writes),
	"make generate":               dry(writes),
	"make chaos":                  dry(takesLong + "; make test runs the same tests in their short form"),
	"make fuzz":                   dry(takesLong + "; make test runs the same targets over their corpus"),
	"make fuzz FUZZTIME=30s":      dry(takesLong + "; make test runs the same targets over their corpus"),
	"make bench BENCH=Append":     dry(takesLong),
	"make image":                  dry(containers),
	"make up":                     dry(containers),
	"make down":                   dry(containers),
	"make test-compose":           dry(partOfCI),
	"make release":                dry("TestRelease runs it for one platform"),
	"make release VERSION=v0.2.0": runBy("deploy", "TestRelease"),
	"make sim":                    short("SIM_CORE=20 SIM_STORAGE=2"),
	"make sim-planted":            dry(takesLong + "; .ci/run runs the simulation"),

	"go test ./internal/sim": short("-run '^TestSim$' -sim.core=20 -sim.storage=2"),
	"go test ./internal/sim -run '^TestSim$' -sim.core=1000 -sim.storage=0 -sim.first=7000": short("", "=1000", "=20"),
	"go test ./internal/sim -run '^TestSim$' -sim.mode=core -sim.seed=1234 > trace.txt":     short(`&& test -s "$SCRATCH"/trace.txt`, "trace.txt", `"$SCRATCH"/trace.txt`),
	"go test ./internal/sim -run TestSim -sim.seed=N -sim.mode=core":                        short("", "=N", "=1234"),
	"go test -short ./...":                                                                          dry(partOfTest),
	"go test ./internal/testcluster/chaos -v":                                                       dry("make test runs these tests"),
	"go test ./internal/testcluster/chaos -v -chaos.long -timeout 60m":                              dry(takesLong),
	"go test ./internal/testcluster/chaos -v -run TestLeaderKills":                                  dry("make test runs this test"),
	"go test -run xxx -bench 'Speed|ManyLogs|SyncMany|PageCache' -benchtime 15x ./internal/storage": dry(takesLong),
	"go test -run xxx -bench 'Beside' -benchtime 21x ./internal/storage":                            dry(takesLong),
	`go build -tags planted -ldflags "-X main.plant=leader-acks-alone" ./cmd/broker`:                runBy(chaosDir, "TestPlantedLeaderAcksAlone"),

	"docker build -f deploy/Dockerfile -t penstock:local .": runBy("deploy", "TestDockerfile"),
	"docker kill": dry(justNamed),
	"docker load": dry(justNamed),

	"apt-get install python3-grpcio protobuf-compiler protobuf-compiler-grpc": runBy("examples/python", "TestPackages"),
	"pip install grpcio grpcio-tools protobuf":                                runBy("examples/python", "TestPackages"),
}
