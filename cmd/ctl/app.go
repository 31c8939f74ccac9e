package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/client"
	"github.com/penstock-io/penstock/internal/telemetry"
)

// streams are what a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
	terminal bool // in is interactive
}

// app is one run of brokerctl: streams and the global flags.
type app struct {
	streams
	bootstrap []string
	output    string
	timeout   time.Duration
	verbose   bool
}

const defaultBootstrap = "127.0.0.1:9092"

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{streams: s}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	return a.exitCode(err)
}

func (a *app) exitCode(err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		a.notef("usage: %v (see --help)", err)
		return exitUsage
	case errors.Is(err, errUnhealthy):
		return exitUnhealthy
	case errors.Is(err, errReported):
		return exitFailed
	case client.IsName(err, "NO_QUORUM"):
		a.notef("error: %v", err)
		return exitUnhealthy
	default:
		a.notef("error: %v", err)
		return exitFailed
	}
}

// notef writes a line for people. What they do not get to read is no reason to fail.
func (a *app) notef(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, format+"\n", args...)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use: "brokerctl", Short: "Administer a Penstock cluster; produce, consume and measure",
		SilenceErrors: true, SilenceUsage: true, Version: telemetry.Version(),
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.checkGlobals()
		},
	}
	bootstrap := os.Getenv("PENSTOCK_BOOTSTRAP")
	if bootstrap == "" {
		bootstrap = defaultBootstrap
	}
	f := root.PersistentFlags()
	f.StringSliceVar(&a.bootstrap, "bootstrap", strings.Split(bootstrap, ","), "brokers to ask first, host:port (PENSTOCK_BOOTSTRAP)")
	f.StringVarP(&a.output, "output", "o", "text", "text, json, yaml or wide")
	f.DurationVar(&a.timeout, "timeout", 10*time.Second, "bound of first contact and of each request")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "say on standard error what the client does")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%v", err) })
	root.AddCommand(a.topicCmd(), a.produceCmd(), a.consumeCmd(), a.clusterCmd(), a.brokerCmd(), a.partitionCmd(),
		a.controllerCmd(), a.benchCmd(), a.errorsCmd(), a.logCmd())
	root.SetOut(a.out) // the completion commands keep it from here on
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil && completion != root {
		completion.Args = nil
		completion.RunE = group(completion.Use, "").RunE
	}
	return root
}

func (a *app) checkGlobals() error {
	switch a.output {
	case "text", "json", "yaml", "wide":
	default:
		return usagef("output %q is not one of text, json, yaml, wide", a.output)
	}
	if a.timeout <= 0 {
		return usagef("--timeout %v must be more than 0", a.timeout)
	}
	return nil
}

// args checks the number of arguments as usage.
func args(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			_, takes, found := strings.Cut(cmd.Use, " ")
			if !found {
				takes = "no arguments"
			}
			return usagef("%s takes %s, %d given", cmd.CommandPath(), takes, len(args))
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%s has no command %q", cmd.CommandPath(), args[0])
			}
			return usagef("%s needs a command", cmd.CommandPath())
		},
	}
	c.AddCommand(subs...)
	return c
}

// dial connects within the timeout. The caller closes the client through hangUp.
func (a *app) dial(ctx context.Context) (*client.Client, error) {
	level := slog.LevelError + 1
	if a.verbose {
		level = slog.LevelDebug
	}
	bootstrap, err := addresses(a.bootstrap)
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	c, err := client.Dial(within, client.Config{
		Bootstrap: bootstrap, ClientID: "brokerctl", DialTimeout: min(a.timeout, 5*time.Second), RequestTimeout: a.timeout,
		Logger: slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level})),
	})
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w; see that the cluster runs, and that --bootstrap (or PENSTOCK_BOOTSTRAP) names client listeners of it", err)
	}
	return c, err
}

// addresses checks a list of host:port.
func addresses(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, usagef("--bootstrap is empty: name at least one host:port")
	}
	out := make([]string, 0, len(list))
	for _, address := range list {
		address = strings.TrimSpace(address)
		_, port, err := net.SplitHostPort(address)
		if number, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || number == 0 {
			return nil, usagef("--bootstrap %q is not host:port with a port from 1 to 65535", address)
		}
		out = append(out, address)
	}
	return out, nil
}

// hangUp closes the client and keeps the first error.
func hangUp(c *client.Client, err *error) {
	if closeErr := c.Close(); *err == nil {
		*err = closeErr
	}
}

// withClient runs f with a connection.
func (a *app) withClient(ctx context.Context, f func(context.Context, *client.Client) error) (err error) {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp(c, &err)
	return f(ctx, c)
}

// confirm asks before something is destroyed; away from a terminal only --yes will do.
func (a *app) confirm(ctx context.Context, yes bool, what string) error {
	if yes {
		return nil
	}
	if !a.terminal {
		return usagef("%s needs --yes when standard input is no terminal", what)
	}
	_, _ = fmt.Fprintf(a.err, "%s? [y/N] ", what)
	answer, err := bufio.NewReader(newInterruptible(ctx, a.in)).ReadString('\n')
	if err != nil {
		a.notef("") // the line of the question was not ended
	}
	if err != nil && !errors.Is(err, io.EOF) && !interrupted(ctx, err) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return fmt.Errorf("not confirmed: nothing was changed")
	}
}
