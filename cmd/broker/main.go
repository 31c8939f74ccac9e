package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/penstock-io/penstock/internal/config"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// failure is an error of what was asked for; all other errors are those of asking.
type failure struct{ err error }

func (f failure) Error() string { return f.err.Error() }
func (f failure) Unwrap() error { return f.err }

func failed(err error) error {
	if err == nil {
		return nil
	}
	return failure{err}
}

func run(args []string, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the second one ends the process at once.
	unhook := context.AfterFunc(ctx, stop)
	defer unhook()
	root := newRoot(out, errOut)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	say(errOut, "broker: %v\n", err)
	var runtime failure
	if errors.As(err, &runtime) {
		return exitFailed
	}
	return exitUsage
}

// say writes for people; where they have gone nothing can be done about it.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }

func newRoot(out, errOut io.Writer) *cobra.Command {
	settings := &settings{}
	root := &cobra.Command{
		Use:   "broker",
		Short: "Run one node of Penstock",
		Long: "Runs one node. Without any setting it is a whole cluster of its own: both roles, clients on 127.0.0.1:9092,\n" +
			"data in ./data. Every setting is a key of the configuration file, a flag, and a variable PENSTOCK_...",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := settings.load()
			if err != nil {
				return err
			}
			return failed(runNode(cmd.Context(), cfg, errOut))
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	settings.flags = config.AddFlags(root.Flags())
	config.AddFileFlag(root.Flags(), &settings.file, os.Getenv("PENSTOCK_CONFIG"))
	root.AddCommand(newConfigCommand(out), newVersionCommand(out), newDevCommand(out, errOut))
	return root
}

// settings are what a command line says of the configuration.
type settings struct {
	file  string
	flags *config.Flags
}

func (s *settings) load() (*config.Config, error) {
	return config.Load(config.Source{File: s.file, Environ: config.Environ(), Flags: s.flags.Values()})
}

// flagError names the nearest key where a flag is unknown.
func flagError(err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		return fmt.Errorf("%w; did you mean --%s?", err, config.NearestKey(unknown.GetSpecifiedName()))
	}
	return err
}
