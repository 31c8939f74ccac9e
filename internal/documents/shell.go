package documents

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Shell runs a line of bash in a directory as if a reader had typed it there, with more variables in its environment, and returns what it
// wrote. A command of it that fails, also within a pipe, fails the line.
func Shell(ctx context.Context, dir, line string, env ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", line) //nolint:gosec // shown by our own documents
	cmd.Dir, cmd.Env = dir, slices.Clone(env)
	for _, kept := range os.Environ() {
		// What a make around this program hands down is not what a reader has.
		if name, _, _ := strings.Cut(kept, "="); !slices.Contains([]string{"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}, name) {
			cmd.Env = append(cmd.Env, kept)
		}
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}
