//go:build unix

package main

import (
	"strings"
	"syscall"
	"testing"
)

// refuses says that the program ends with the status of a failure, before it serves, and says all of the texts.
func refuses(t *testing.T, p *program, texts ...string) {
	t.Helper()
	if code := p.exit(); code != exitFailed {
		t.Errorf("exit status %d, want %d", code, exitFailed)
	}
	for _, text := range texts {
		if !strings.Contains(p.out.String(), text) {
			t.Errorf("it does not say %q:\n%s", text, p.out)
		}
	}
}

func TestTooFewOpenFilesRefuse(t *testing.T) {
	configFile, _ := singleNode(t)
	refuses(t, launchWith(t, "ulimit -n 200", nil, "--config", configFile), "too few open files", "the process may open 200", "LimitNOFILE")
}

// A node with few files says so and works; where only the soft limit is low it takes what the hard one allows.
func TestOpenFilesAreTakenAndSaid(t *testing.T) {
	for before, want := range map[string]string{
		"ulimit -n 1024":                     "open files are scarce: the process may open 1024",
		"ulimit -Sn 64 && ulimit -Hn 6000":   `msg="open files" node=1 limit=6000 segments=2880`,
		"ulimit -Sn 6000 && ulimit -Hn 6000": `msg="open files" node=1 limit=6000 segments=2880`,
	} {
		configFile, _ := singleNode(t)
		p := launchWith(t, before, nil, "--config", configFile)
		p.awaitText("msg=started")
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("%s: it does not say %q", before, want)
		}
		p.signal(syscall.SIGTERM)
		if code := p.exit(); code != exitOK {
			t.Errorf("%s: exit status %d", before, code)
		}
	}
}

func TestTooLittleMemoryRefuses(t *testing.T) {
	configFile, _ := singleNode(t)
	refuses(t, launchWith(t, "", []string{"GOMEMLIMIT=40MiB"}, "--config", configFile), "too little memory", "40 MiB (GOMEMLIMIT)", "cleaner.map.bytes")
	refuses(t, launch(t, "--config", configFile, "--memory.limit.bytes", "30MiB"), "30 MiB (memory.limit.bytes)")
}

func TestTheMemoryLimitIsSaidWithItsOrigin(t *testing.T) {
	configFile, _ := singleNode(t)
	p := launchWith(t, "", []string{"GOMEMLIMIT=100MiB"}, "--config", configFile, "--memory.limit.bytes", "1GiB")
	p.awaitText("msg=started")
	for _, want := range []string{"bytes=104857600 origin=GOMEMLIMIT", "memory is scarce"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("it does not say %q", want)
		}
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != exitOK {
		t.Errorf("exit status %d", code)
	}
}
