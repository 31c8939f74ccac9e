package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/penstock-io/penstock/internal/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "broker.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaultsAreAWorkingNode(t *testing.T) {
	c, err := config.Load(config.Source{})
	if err != nil {
		t.Fatal(err)
	}
	if !c.Roles.Broker || !c.Roles.Controller || c.DataDir != "data" || !c.IsVoter() {
		t.Errorf("defaults: %+v", c)
	}
	if got := c.ClientListeners[0]; got.Name != "client" || got.Advertised != "127.0.0.1:9092" {
		t.Errorf("client listener: %+v", got)
	}
	if c.Controllers[0].Address != "127.0.0.1:9093" {
		t.Errorf("controllers: %+v", c.Controllers)
	}
	if w := c.Warnings(); len(w) != 0 {
		t.Errorf("warnings on loopback: %q", w)
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, "node.id: 4\nlog: {level: debug, format: json}\nsession.timeout: 9s\ncontrollers: [4@h:1, '5@h:2']\n")
	set := pflag.NewFlagSet("broker", pflag.ContinueOnError)
	flags := config.AddFlags(set)
	if err := set.Parse([]string{"--session.timeout", "7s"}); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Source{File: file, Environ: []string{
		"PENSTOCK_SESSION_TIMEOUT=8s", "PENSTOCK_LOG_LEVEL=warn", "PENSTOCK_BOOTSTRAP=x:1", "HOME=/",
	}, Flags: flags.Values()})
	if err != nil {
		t.Fatal(err)
	}
	if c.SessionTimeout != 7*time.Second || c.LogLevel.String() != "WARN" || c.NodeID != 4 || len(c.Controllers) != 2 {
		t.Errorf("merged: %+v", c)
	}
	var out strings.Builder
	if err := c.Print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"flag --session.timeout", "variable PENSTOCK_LOG_LEVEL", "broker.yaml line 1", "# default"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("print lacks %q:\n%s", want, out.String())
		}
	}
}

func TestRefusals(t *testing.T) {
	cases := []struct {
		name, file, env, want string
	}{
		{"unknown key", "listen.pear: a:1", "", "listen.peer"},
		{"unknown nested key", "listen: {pear: 'a:1'}", "", "listen.peer"},
		{"unknown section", "lissten: {peer: 'a:1'}", "", "no such key"},
		{"repeated key", "node.id: 1\nnode.id: 2", "", "twice"},
		{"repeated key, nested", "node.id: 1\nnode: {id: 2}", "", "twice, first at"},
		{"unknown variable", "", "PENSTOCK_NODE_IDD=1", "PENSTOCK_NODE_ID"},
		{"bad number", "node.id: -1", "", "out of range"},
		{"number that is none", "node.id: one", "", "whole number"},
		{"number above its bound", "limits.streams: 1000001", "", "1 to 1000000"},
		{"size below its bound", "limits.message.bytes: 1KiB\nlimits.header.bytes: 1", "", "1KiB to 16MiB"},
		{"size that is none", "limits.message.bytes: much", "", "16MiB"},
		{"duration without unit", "session.timeout: 3", "", "no duration"},
		{"duration beyond its bound", "session.timeout: 1h", "", "100ms to 10m"},
		{"bad level", "log.level: loud", "", "trace, debug, info, warn, error"},
		{"bad format", "log.format: xml", "", "text, json"},
		{"bad switch", "admin.pprof: maybe", "", "true, false"},
		{"election shorter than heartbeat", "raft.election.timeout: 100ms", "", "raft.heartbeat.timeout"},
		{"bad address", "listen.peer: here", "", "host:port"},
		{"bad role", "roles: [king]", "", "king"},
		{"no voters", "roles: broker", "", "name the voters"},
		{"not a voter", "controllers: 2@h:1", "", "node 1"},
		{"voter twice", "controllers: 1@h:1,1@h:2", "", "twice"},
		{"slow heartbeat", "heartbeat.interval: 2s", "", "third"},
		{"missing key file", "gossip.key.file: /does/not/exist", "", "no such file"},
		{"two listeners of a name", "listen.client: 'a:1,b:2'", "", "two listeners"},
		{"advertised without listener", "advertised.client: x=h:1", "", `"x"`},
		{"no value", "node.id:", "", "no value"},
		{"not a mapping", "- a", "", "key: value"},
		{"two documents", "node.id: 1\n---\nnode.id: 2", "", "more than one"},
		{"broken YAML", "node.id: [", "", "yaml"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Load(config.Source{File: write(t, tc.file), Environ: []string{tc.env}})
			var typed *config.Error
			if !errors.As(err, &typed) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want one that says %q", err, tc.want)
			}
		})
	}
}

func TestMissingFileRefuses(t *testing.T) {
	_, err := config.Load(config.Source{File: filepath.Join(t.TempDir(), "none.yaml")})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestFlagGivenTwiceRefuses(t *testing.T) {
	set := pflag.NewFlagSet("broker", pflag.ContinueOnError)
	config.AddFlags(set)
	if err := set.Parse([]string{"--node.id=1", "--node.id=2"}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v", err)
	}
}

func withKey(path string) config.Source {
	return config.Source{Flags: map[string]string{"gossip.key.file": path}}
}

func TestGossipKey(t *testing.T) {
	for _, text := range []string{strings.Repeat("ab", 32) + "\n", strings.Repeat("k", 32)} {
		c, err := config.Load(withKey(write(t, text)))
		if err != nil || len(c.GossipKey) != 32 || len(c.Warnings()) != 0 {
			t.Errorf("%q: %v", text, err)
		}
		var out strings.Builder
		if err := errors.Join(err, c.Print(&out)); err != nil || strings.Contains(out.String(), strings.TrimSpace(text)) {
			t.Errorf("the key is printed (%v):\n%s", err, out.String())
		}
	}
}

// A key that is named and cannot be used refuses to start: gossip without a key would be something weaker.
func TestABadGossipKeyRefuses(t *testing.T) {
	directory := t.TempDir()
	for name, path := range map[string]string{
		"short": write(t, "short"), "long": write(t, strings.Repeat("ab", 33)), "empty": write(t, ""), "no digits": write(t, strings.Repeat("xy", 32)),
		"missing": filepath.Join(directory, "none"), "a directory": directory, "too large": write(t, strings.Repeat("ab", 1<<20)),
	} {
		c, err := config.Load(withKey(path))
		var typed *config.Error
		if !errors.As(err, &typed) || typed.Key != "gossip.key.file" || !strings.Contains(err.Error(), path) || c != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if os.Geteuid() == 0 {
		return // root reads everything
	}
	secret := write(t, strings.Repeat("k", 32))
	if err := os.Chmod(secret, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := config.Load(withKey(secret)); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("unreadable: got %v", err)
	}
}

func TestWarnsOfAKeyThatEverybodyCanRead(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("modes of files say nothing there")
	}
	secret := write(t, strings.Repeat("k", 32))
	if err := os.Chmod(secret, 0o644); err != nil { //nolint:gosec // that is the fault
		t.Fatal(err)
	}
	c, err := config.Load(withKey(secret))
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Warnings(); len(w) != 1 || !strings.Contains(w[0], secret) {
		t.Errorf("warnings: %q", w)
	}
}

func TestWarnsBeyondLoopback(t *testing.T) {
	c, err := config.Load(config.Source{Flags: map[string]string{"listen.client": "0.0.0.0:9092", "listen.peer": "10.0.0.1:5"}})
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Warnings(); len(w) != 3 {
		t.Errorf("warnings: %q", w)
	}
}

// Beyond loopback gossip is encrypted, so that there is nothing to warn of but an address that nobody can reach.
func TestGossipBeyondLoopbackNeedsAKey(t *testing.T) {
	for _, bind := range []string{"0.0.0.0:5", ":5", "10.0.0.1:5", "[::]:5"} {
		flags := map[string]string{"listen.gossip": bind, "advertised.gossip": "host:5"}
		var typed *config.Error
		if _, err := config.Load(config.Source{Flags: flags}); !errors.As(err, &typed) || typed.Key != "gossip.key.file" {
			t.Errorf("%s without a key: got %v", bind, err)
		}
		flags["gossip.key.file"] = write(t, strings.Repeat("k", 32))
		if c, err := config.Load(config.Source{Flags: flags}); err != nil || len(c.Warnings()) != 0 {
			t.Errorf("%s with a key: %v", bind, err)
		}
	}
}

func TestNoKeyIsAPrefixOfAnother(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range config.Keys() {
		if seen[config.EnvName(a.Name)] || a.Doc == "" {
			t.Errorf("%s: variable taken, or no description", a.Name)
		}
		seen[config.EnvName(a.Name)] = true
		for _, b := range config.Keys() {
			if strings.HasPrefix(b.Name, a.Name+".") {
				t.Errorf("%s is a section and a key", a.Name)
			}
		}
	}
}
