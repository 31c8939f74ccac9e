package broker_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/penstock-io/penstock/internal/broker"
	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/fsys"
	"github.com/penstock-io/penstock/internal/model"
	"github.com/penstock-io/penstock/internal/storage"
	"github.com/penstock-io/penstock/internal/testports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings are those of a node on ports that the system chooses; its controller is found at a port of the test.
func settings(t *testing.T, dir string) map[string]string {
	t.Helper()
	return map[string]string{
		"data.dir": dir, "listen.client": "127.0.0.1:0", "listen.peer": testports.Address(t), "listen.admin": "127.0.0.1:0",
		"listen.gossip": testports.Address(t),
	}
}

func start(t *testing.T, flags map[string]string) (*broker.Node, error) {
	t.Helper()
	return startLogging(t, flags, slog.DiscardHandler)
}

func startLogging(t *testing.T, flags map[string]string, handler slog.Handler) (*broker.Node, error) {
	t.Helper()
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return broker.Start(ctx, cfg, slog.New(handler))
}

func mustStart(t *testing.T, flags map[string]string) *broker.Node {
	t.Helper()
	node, err := start(t, flags)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-node.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the node is not ready")
	}
	return node
}

func stop(t *testing.T, node *broker.Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := node.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func metaOf(t *testing.T, dir string) storage.Meta {
	t.Helper()
	opened, err := storage.OpenDir(fsys.OS(), dir, storage.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	}()
	return opened.Meta()
}

func TestTheDirectoryRemembers(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	stop(t, mustStart(t, flags))
	first := metaOf(t, dir)
	if first.NodeID != 1 || first.ClusterID.IsZero() || first.BrokerEpoch < 0 || !first.CleanShutdown {
		t.Errorf("after a clean stop: %+v", first)
	}
	node := mustStart(t, flags)
	if err := node.Kill(); err != nil {
		t.Error(err)
	}
	second := metaOf(t, dir)
	if second.CleanShutdown || second.ClusterID != first.ClusterID || second.DirectoryID != first.DirectoryID || second.BrokerEpoch <= first.BrokerEpoch {
		t.Errorf("after a kill: %+v, before: %+v", second, first)
	}
}

func TestConflictsAreTyped(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	node := mustStart(t, flags)
	defer stop(t, node)
	with := func(more map[string]string) map[string]string {
		out := settings(t, filepath.Join(t.TempDir(), "data"))
		maps.Copy(out, more)
		return out
	}
	for _, tc := range []struct {
		name  string
		flags map[string]string
		want  error
	}{
		{"directory", with(map[string]string{"data.dir": dir}), broker.ErrDirectoryInUse},
		{"peer", with(map[string]string{"listen.peer": flags["listen.peer"]}), broker.ErrAddressInUse},
		{"gossip", with(map[string]string{"listen.gossip": flags["listen.gossip"]}), broker.ErrAddressInUse},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := start(t, tc.flags); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if node.Err() != nil {
		t.Errorf("the first node suffered: %v", node.Err())
	}
}

func TestADirectoryBelongsToOneNode(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	stop(t, mustStart(t, flags))
	flags["node.id"] = "2"
	if _, err := start(t, flags); !errors.Is(err, broker.ErrOtherNode) {
		t.Errorf("got %v", err)
	}
}

// A broker whose directory comes from another cluster stops and says so.
func TestADirectoryBelongsToOneCluster(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	stop(t, mustStart(t, flags))
	if err := os.RemoveAll(filepath.Join(dir, "controller")); err != nil {
		t.Fatal(err)
	}
	node, err := start(t, flags) // its controller begins a new cluster
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-node.Done():
	case <-time.After(time.Minute):
		t.Error("the node goes on")
	}
	if err := node.Err(); !errors.Is(err, broker.ErrOtherCluster) && !model.IsCode(err, model.CodeInconsistentClusterID) {
		t.Errorf("got %v", err)
	}
	stop(t, node)
}

// Nobody answers for the quorum: the node starts, waits, and can be stopped.
func TestStopWithoutAQuorum(t *testing.T) {
	flags := settings(t, t.TempDir())
	flags["controllers"] = "1@" + flags["listen.peer"] + ",2@127.0.0.1:1,3@127.0.0.1:2"
	flags["shutdown.timeout"] = "500ms"
	node, err := start(t, flags)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-node.Ready():
		t.Error("ready without a quorum")
	case <-time.After(300 * time.Millisecond):
	}
	began := time.Now()
	stop(t, node)
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// A machine that went down took its page cache with it. A node that could not say so to a controller says so at its next start.
func TestALostPageCacheIsConfessed(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	stop(t, mustStart(t, flags))
	opened, err := storage.OpenDir(fsys.OS(), dir, storage.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(opened.ClearClean("another boot"), opened.Close()); err != nil {
		t.Fatal(err)
	}
	alone := maps.Clone(flags)
	alone["roles"], alone["controllers"] = "broker", "2@127.0.0.1:1" // nobody to register with
	node, err := start(t, alone)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Kill(); err != nil {
		t.Error(err)
	}
	if got := metaOf(t, dir).BootID; got != "another boot" {
		t.Errorf("boot id %q: the loss is forgotten", got)
	}
	node = mustStart(t, flags)
	if err := node.Kill(); err != nil {
		t.Error(err)
	}
	if got := metaOf(t, dir).BootID; got == "another boot" {
		t.Error("the loss is confessed again and again")
	}
}

// recordedLog keeps the messages that are logged at a level or above.
type recordedLog struct {
	slog.Handler
	mu       sync.Mutex
	messages []string
}

func (r *recordedLog) Enabled(context.Context, slog.Level) bool { return true }

func (r *recordedLog) Handle(_ context.Context, line slog.Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, line.Level.String()+" "+line.Message)
	return nil
}

func (r *recordedLog) WithAttrs([]slog.Attr) slog.Handler { return r }

func (r *recordedLog) WithGroup(string) slog.Handler { return r }

func (r *recordedLog) holds(beginning string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.messages, func(m string) bool { return strings.HasPrefix(m, beginning) })
}

// A journal that the disk has damaged is told of when it is found: it is written anew, and nothing shows it afterwards. An end that a
// crash cut short is no alarm.
func TestADamagedJournalIsTold(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	stop(t, mustStart(t, flags))
	journal := filepath.Join(dir, "checkpoints.journal")
	for _, tc := range []struct {
		tail []byte
		want string
	}{
		{[]byte{0, 0, 0, 45, 1}, "INFO the end of the checkpoints journal was cut off"},
		{bytes.Repeat([]byte{0xa5}, 100), "WARN the checkpoints journal is damaged"},
	} {
		whole, err := os.ReadFile(journal)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(journal, append(whole, tc.tail...), 0o600); err != nil {
			t.Fatal(err)
		}
		log := &recordedLog{}
		node, err := startLogging(t, flags, log)
		if err != nil {
			t.Fatal(err)
		}
		stop(t, node)
		if !log.holds(tc.want) {
			t.Errorf("with %d bytes more nobody said %q: %q", len(tc.tail), tc.want, log.messages)
		}
		if log.holds("WARN the checkpoints journal") != strings.HasPrefix(tc.want, "WARN") {
			t.Errorf("with %d bytes more: %q", len(tc.tail), log.messages)
		}
	}
}

// A journal that is gone is told of where there are logs, and so is a list of lost seats that cannot be believed: what a start makes of
// them shows nowhere else.
func TestALostJournalAndADamagedSeatsListAreTold(t *testing.T) {
	dir := t.TempDir()
	flags := settings(t, dir)
	stop(t, mustStart(t, flags))
	journal, seats := filepath.Join(dir, "checkpoints.journal"), filepath.Join(dir, "seats.lost")
	told := func(prepare func() error) *recordedLog {
		t.Helper()
		if err := prepare(); err != nil {
			t.Fatal(err)
		}
		log := &recordedLog{}
		node, err := startLogging(t, flags, log)
		if err != nil {
			t.Fatal(err)
		}
		stop(t, node)
		return log
	}
	const gone, damaged = "WARN the checkpoints journal is missing or empty", "WARN the list of seats that earlier starts have lost is damaged"
	if log := told(func() error { return os.Remove(journal) }); log.holds(gone) || log.holds(damaged) {
		t.Errorf("without logs: %q", log.messages)
	}
	for what, prepare := range map[string]func() error{
		"no journal":       func() error { return os.Remove(journal) },
		"an empty journal": func() error { return os.WriteFile(journal, nil, 0o600) },
	} {
		if err := os.MkdirAll(filepath.Join(dir, "topics", model.NewUUID().String(), "0"), 0o750); err != nil { // no start uses it twice
			t.Fatal(err)
		}
		if log := told(prepare); !log.holds(gone) || log.holds(damaged) {
			t.Errorf("%s: %q", what, log.messages)
		}
	}
	if log := told(func() error { return os.WriteFile(seats, []byte("damaged"), 0o600) }); log.holds(gone) || !log.holds(damaged) {
		t.Errorf("a damaged list of seats: %q", log.messages)
	}
}
