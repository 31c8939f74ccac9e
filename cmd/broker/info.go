package main

import (
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/internal/config"
	"github.com/penstock-io/penstock/internal/telemetry"
)

func newVersionCommand(out io.Writer) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of the binary", Args: cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			b := telemetry.Build()
			say(out, "penstock %s (%s, %s, %s)\n", b.Version, b.Revision, b.GoVersion, b.Platform)
		},
	}
}

func newConfigCommand(out io.Writer) *cobra.Command {
	settings := &settings{}
	parent := &cobra.Command{
		Use: "config", Short: "Look at the configuration", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return errors.New("use broker config print") },
	}
	show := &cobra.Command{
		Use: "print", Short: "Show each setting with its value and where it comes from", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := settings.load()
			if err != nil {
				return err
			}
			return failed(cfg.Print(out))
		},
	}
	settings.flags = config.AddFlags(show.Flags())
	config.AddFileFlag(show.Flags(), &settings.file, os.Getenv("PENSTOCK_CONFIG"))
	parent.AddCommand(show)
	return parent
}
