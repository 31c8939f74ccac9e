package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packed packs two small platforms and returns what came out, by name.
func packed(t *testing.T) map[string][]byte {
	t.Helper()
	binaries, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"linux-amd64/brokerctl", "linux-amd64/broker", "windows-amd64/brokerctl.exe"} {
		path := filepath.Join(binaries, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("binary "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := run([]string{"-version", "v1.2.3", "-revision", "abc", "-time", "1700000000", "-binaries", binaries, "-out", out, "../../LICENSE"})
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name.Name()], err = os.ReadFile(filepath.Join(out, name.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func untar(t *testing.T, data []byte) map[string]*tar.Header {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	headers := map[string]*tar.Header{}
	var order []string
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		headers[h.Name], order = h, append(order, h.Name)
		if h.ModTime.Unix() != 1700000000 || h.Uname != "" {
			t.Errorf("%s: time %v, user %q", h.Name, h.ModTime, h.Uname)
		}
	}
	if !slices.IsSorted(order) {
		t.Errorf("not sorted: %v", order)
	}
	return headers
}

// TestPackIsReproducible packs twice, at different times and in different directories.
func TestPackIsReproducible(t *testing.T) {
	first := packed(t)
	if diff := cmp.Diff(first, packed(t)); diff != "" {
		t.Errorf("the same binaries gave other archives:\n%s", diff)
	}
	want := []string{
		"SHA256SUMS", "penstock-v1.2.3-image-linux-amd64.tar.gz", "penstock-v1.2.3-linux-amd64.tar.gz", "penstock-v1.2.3-windows-amd64.zip",
	}
	var names []string
	for name := range first {
		names = append(names, name)
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	for _, name := range want[1:] {
		if line := digest(first[name]) + "  " + name + "\n"; !bytes.Contains(first["SHA256SUMS"], []byte(line)) {
			t.Errorf("SHA256SUMS lacks %q", line)
		}
	}
	files := untar(t, first["penstock-v1.2.3-linux-amd64.tar.gz"])
	for name, mode := range map[string]int64{"broker": 0o755, "brokerctl": 0o755, "LICENSE": 0o644} {
		if h := files["penstock-v1.2.3-linux-amd64/"+name]; h == nil || h.Mode != mode {
			t.Errorf("%s: %+v", name, h)
		}
	}
	windows, err := zip.NewReader(bytes.NewReader(first["penstock-v1.2.3-windows-amd64.zip"]), int64(len(first["penstock-v1.2.3-windows-amd64.zip"])))
	if err != nil || len(windows.File) != 2 || windows.File[1].Name != "penstock-v1.2.3-windows-amd64/brokerctl.exe" {
		t.Errorf("the archive for Windows: %+v %v", windows.File, err)
	}
}

// TestDockerfilesSayTheSame holds the image archive and both Dockerfiles together.
func TestDockerfilesSayTheSame(t *testing.T) {
	config := release{version: "v1"}.imageConfig("amd64", "x").Config
	data, err := json.Marshal(imageData)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ARG UID=65532", "USER ${UID}:${UID}", "VOLUME [" + string(data) + "]", "EXPOSE " + strings.Join(imagePorts, " "),
		"STOPSIGNAL " + config.StopSignal, "WORKDIR " + config.WorkingDir, "ENV " + strings.Join(config.Env, " "), `CMD ["broker"]`,
	}
	if config.User != "65532:65532" || !slices.Equal(config.Cmd, []string{"broker"}) || len(config.ExposedPorts) != len(imagePorts) {
		t.Errorf("the image archive: %+v", config)
	}
	for _, name := range []string{"Dockerfile", "Dockerfile.local"} {
		text, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		_, last, found := strings.Cut(string(text), "FROM scratch\n")
		if !found {
			t.Errorf("%s does not end from scratch", name)
		}
		var lines, copies []string
		for line := range strings.Lines(last) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "COPY ") {
				words := strings.Fields(line)
				copies = append(copies, words[len(words)-1])
			} else if line != "" {
				lines = append(lines, line)
			}
		}
		if diff := cmp.Diff(want, lines); diff != "" {
			t.Errorf("%s and the image archive differ:\n%s", name, diff)
		}
		if !slices.Equal(copies, []string{imageBin + "/", imageData + "/"}) {
			t.Errorf("%s copies to %v", name, copies)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"-version", "a/b", "-binaries", t.TempDir(), "-out", t.TempDir()},
		{"-version", "v1", "-binaries", t.TempDir(), "-out", t.TempDir()},
		{"-version", "v1", "-binaries", "/nowhere", "-out", t.TempDir()},
	} {
		if err := run(args); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
}
