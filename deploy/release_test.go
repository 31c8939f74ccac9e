package deploy_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/penstock-io/penstock/internal/documents"
	"github.com/penstock-io/penstock/internal/testports"
)

const (
	testVersion  = "v0.0.0-test.1"
	testRevision = "0123456789abcdef0123456789abcdef01234567"
)

// makeRelease makes the release of this machine's architecture in a directory of its own.
func makeRelease(t *testing.T, command string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds a release: not in -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("runs what a release holds for Linux")
	}
	dist := filepath.Join(t.TempDir(), "dist")
	must(t, "bash", "-euc", command+` "$@"`, "make", // what is given again at the end counts
		"DIST="+dist, "PLATFORMS=linux-"+runtime.GOARCH, "VERSION="+testVersion, "REVISION="+testRevision, "RELEASE_TIME=1700000000")
	return dist
}

// TestRelease makes the archive of this architecture in each way that the documents show, checks its sums, unpacks it and runs what is in
// it. The same settings give the same bytes.
func TestRelease(t *testing.T) {
	commands, err := documents.Lines(repository, "TestRelease")
	if err != nil {
		t.Fatal(err)
	}
	dist := makeRelease(t, commands[0])
	sums := checkSums(t, dist)
	for _, again := range commands[1:] {
		one, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(filepath.Join(makeRelease(t, again), "SHA256SUMS"))
		if err != nil || !bytes.Equal(one, other) {
			t.Errorf("%q and %q give other bytes with the same settings: %v\n%s\n%s", commands[0], again, err, one, other)
		}
	}
	name := "penstock-" + testVersion + "-linux-" + runtime.GOARCH
	home := t.TempDir()
	unpack(t, filepath.Join(dist, name+".tar.gz"), home)
	dir := filepath.Join(home, name)
	for _, want := range []string{"broker", "brokerctl", "LICENSE", "README.md", "CHANGELOG.md"} {
		if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
			t.Errorf("the archive lacks %s: %v", want, err)
		}
	}
	here, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"broker", "brokerctl"} {
		text, err := os.ReadFile(filepath.Join(dir, program))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte(here+"/")) {
			t.Errorf("%s tells where it was built", program)
		}
	}
	if out := must(t, filepath.Join(dir, "broker"), "version"); !strings.Contains(out, testVersion) || !strings.Contains(out, testRevision) {
		t.Errorf("broker version: %s", out)
	}
	if out := must(t, filepath.Join(dir, "brokerctl"), "--version"); !strings.Contains(out, testVersion) {
		t.Errorf("brokerctl --version: %s", out)
	}
	runReleased(t, dir)
	t.Logf("%d files with their sums; %s unpacked and run", sums, name)
}

// checkSums holds SHA256SUMS against the files of a release.
func checkSums(t *testing.T, dist string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dist, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	for line := range strings.Lines(string(text)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		data, err := os.ReadFile(filepath.Join(dist, name))
		if err != nil {
			t.Fatal(err)
		}
		if real := sha256.Sum256(data); hex.EncodeToString(real[:]) != sum {
			t.Errorf("%s: the sum is wrong", name)
		}
		listed++
	}
	files, err := os.ReadDir(dist)
	if err != nil || listed != len(files)-1 {
		t.Errorf("%d files are listed, the release has %d: %v", listed, len(files)-1, err)
	}
	return listed
}

func unpack(t *testing.T, archive, to string) {
	t.Helper()
	data, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = data.Close() }()
	plain, err := gzip.NewReader(data)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, filepath.FromSlash(h.Name)) //nolint:gosec // an archive that this test made
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o750)
		} else {
			var text []byte
			if text, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, text, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// runReleased runs one node of the release and asks it for its metrics and for a record.
func runReleased(t *testing.T, dir string) {
	t.Helper()
	client, peer, admin, gossip := testports.Take(t, 1), testports.Take(t, 1), testports.Take(t, 1), testports.Take(t, 1)
	address := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	node := exec.Command(filepath.Join(dir, "broker"), "--data.dir", filepath.Join(t.TempDir(), "data"), "--listen.client", address(client), //nolint:gosec // made by this test
		"--listen.peer", address(peer), "--listen.admin", address(admin), "--listen.gossip", address(gossip))
	var log bytes.Buffer
	node.Env, node.Stdout, node.Stderr = cleanEnv(), &log, &log
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- node.Wait() }()
	defer func() {
		_ = node.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v:\n%s", err, tail(log.String()))
		}
	}()
	ctl := filepath.Join(dir, "brokerctl")
	eventually(t, time.Minute, "the node is ready", func() error {
		if r := run(t.Context(), t, nil, ctl, "broker", "ready", "--admin", address(admin)); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
	must(t, ctl, "--bootstrap", address(client), "topic", "create", "t", "--partitions", "1")
	if r := run(t.Context(), t, strings.NewReader("hello\n"), ctl, "--bootstrap", address(client), "produce", "t"); r.code != 0 {
		t.Error(r)
	}
	if out := must(t, ctl, "--bootstrap", address(client), "consume", "t", "--from-beginning", "-e"); out != "hello\n" {
		t.Errorf("read back: %q", out)
	}
	if line, err := buildInfo(t, address(admin)); err != nil || !strings.Contains(line, `version="`+testVersion+`"`) || !strings.Contains(line, testRevision) {
		t.Errorf("/metrics: %q %v", line, err)
	}
}

// buildInfo is the line of /metrics that names the build.
func buildInfo(t *testing.T, admin string) (line string, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "penstock_build_info{") {
			return lines.Text(), nil
		}
	}
	return "", errors.New("no penstock_build_info")
}

// TestReleaseImage loads the image archive of a release and compares it with what make image builds.
func TestReleaseImage(t *testing.T) {
	needEngine(t)
	dist := makeRelease(t, "make release")
	loaded, built := "penstock:"+testVersion, "penstock:test-built-"+strconv.Itoa(os.Getpid())
	t.Cleanup(func() {
		if r := run(context.Background(), t, nil, "docker", "image", "rm", loaded, built); r.code != 0 {
			t.Error(r)
		}
	})
	more := map[string][]string{
		"docker load": {"-i", filepath.Join(dist, "penstock-"+testVersion+"-image-linux-"+runtime.GOARCH+".tar.gz")},
		"make image":  {"IMAGE=" + built, "IMAGE_UID=65532", "VERSION=" + testVersion, "REVISION=" + testRevision},
	}
	shown, err := documents.Lines(repository, "TestReleaseImage")
	if err != nil || len(shown) != len(more) {
		t.Fatalf("the documents show two ways to an image: %q %v", shown, err)
	}
	for _, command := range shown {
		words := append(strings.Fields(command), more[command]...)
		must(t, words[0], words[1:]...)
	}
	if out := must(t, "docker", "run", "--rm", "--read-only", "--network", "none", loaded, "broker", "version"); !strings.Contains(out, testVersion) {
		t.Errorf("broker version: %s", out)
	}
	one, other := imageConfig(t, loaded), imageConfig(t, built)
	if one != other {
		t.Errorf("the image archive and make image differ:\n%s\n%s", one, other)
	}
}

func imageConfig(t *testing.T, image string) string {
	t.Helper()
	var images []struct {
		Config struct {
			User, WorkingDir, StopSignal string
			Env, Cmd, Entrypoint         []string
			Volumes, ExposedPorts        map[string]struct{}
			Labels                       map[string]string
		}
	}
	if err := json.Unmarshal([]byte(must(t, "docker", "image", "inspect", image)), &images); err != nil || len(images) != 1 {
		t.Fatalf("docker image inspect %s: %v", image, err)
	}
	return fmt.Sprintf("%+v", images[0].Config)
}
