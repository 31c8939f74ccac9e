package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// release is what all files of a release have in common.
type release struct {
	version  string
	revision string
	time     time.Time // of every file in every archive
	extras   []string  // files that go into each archive, such as the license
}

// file is one file of an archive.
type file struct {
	name string // with forward slashes
	mode int64
	data []byte
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1) //nolint:forbidigo // this is a main package
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("pack", flag.ContinueOnError)
	var r release
	var binaries, out string
	var seconds int64
	flags.StringVar(&r.version, "version", "", "version of the release")
	flags.StringVar(&r.revision, "revision", "", "commit of the release")
	flags.Int64Var(&seconds, "time", 0, "time of all files, in seconds since 1970")
	flags.StringVar(&binaries, "binaries", "", "directory with a directory OS-ARCH a platform, which holds its binaries")
	flags.StringVar(&out, "out", "", "directory to write to")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if r.version == "" || strings.ContainsAny(r.version, "/\\ ") || binaries == "" || out == "" {
		return errors.New("-version, -binaries and -out are needed, and a version is one word without slashes")
	}
	r.time, r.extras = time.Unix(seconds, 0).UTC(), flags.Args()
	return r.pack(binaries, out)
}

// pack writes everything, and SHA256SUMS last.
func (r release) pack(binaries, out string) error {
	platforms, err := os.ReadDir(binaries)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o750); err != nil {
		return err
	}
	var sums []string
	write := func(name string, data []byte) error {
		sum := sha256.Sum256(data)
		sums = append(sums, hex.EncodeToString(sum[:])+"  "+name+"\n")
		return publish(filepath.Join(out, name), data)
	}
	for _, platform := range platforms {
		name, data, err := r.archive(filepath.Join(binaries, platform.Name()), platform.Name())
		if err != nil {
			return fmt.Errorf("archive of %s: %w", platform.Name(), err)
		}
		if err := write(name, data); err != nil {
			return err
		}
		system, arch, _ := strings.Cut(platform.Name(), "-")
		if system != "linux" {
			continue
		}
		if name, data, err = r.image(filepath.Join(binaries, platform.Name()), arch); err != nil {
			return fmt.Errorf("image of %s: %w", platform.Name(), err)
		}
		if err := write(name, data); err != nil {
			return err
		}
	}
	if len(sums) == 0 {
		return fmt.Errorf("%s holds no platform", binaries)
	}
	slices.SortFunc(sums, func(a, b string) int { return cmp.Compare(a[2*sha256.Size:], b[2*sha256.Size:]) })
	return publish(filepath.Join(out, "SHA256SUMS"), []byte(strings.Join(sums, "")))
}

// archive makes the archive of a platform, a zip for Windows and a compressed tar otherwise.
func (r release) archive(dir, platform string) (name string, data []byte, err error) {
	files, err := programs(dir, "")
	if err != nil {
		return "", nil, err
	}
	for _, extra := range r.extras {
		text, err := os.ReadFile(filepath.Clean(extra))
		if err != nil {
			return "", nil, err
		}
		files = append(files, file{name: filepath.Base(extra), mode: 0o644, data: text})
	}
	base := "penstock-" + r.version + "-" + platform
	for i := range files {
		files[i].name = base + "/" + files[i].name
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	if strings.HasPrefix(platform, "windows-") {
		data, err = zipped(files, r.time)
		return base + ".zip", data, err
	}
	entries := []entry{{name: base + "/", mode: 0o755}}
	for _, f := range files {
		entries = append(entries, entry{name: f.name, mode: f.mode, data: f.data})
	}
	data, err = tarGz(entries, r.time)
	return base + ".tar.gz", data, err
}

// programs reads the binaries in a directory, by name.
func programs(dir, prefix string) ([]file, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name.Name())) //nolint:gosec // the directory that was asked for
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: prefix + name.Name(), mode: 0o755, data: data})
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no binaries", dir)
	}
	return files, nil
}

// publish writes a file of the release, for everybody to read.
func publish(path string, data []byte) error {
	return os.WriteFile(path, data, 0o644) //nolint:gosec // a release is public
}
