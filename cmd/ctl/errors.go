package main

import (
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/penstock-io/penstock/internal/model"
)

type errorJSON struct {
	Name      string `json:"name"`
	Code      int32  `json:"code"`
	GRPC      string `json:"grpc"`
	Definite  bool   `json:"definite"`
	Retryable bool   `json:"retryable"`
	Meaning   string `json:"meaning"`
	Action    string `json:"action"`
}

func (a *app) errorsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "errors [CODE]", Short: "Explain error codes: by name or number, or all", Args: args(0, 1),
		RunE: func(_ *cobra.Command, argv []string) error {
			list := []errorJSON{}
			for _, i := range model.ErrorTable() {
				if len(argv) == 1 && !strings.EqualFold(argv[0], i.Name) && argv[0] != strconv.Itoa(int(i.Code)) {
					continue
				}
				list = append(list, errorJSON{
					Name: i.Name, Code: int32(i.Code), GRPC: i.GRPC.String(), Definite: i.Definite, Retryable: i.Retryable,
					Meaning: i.Meaning, Action: i.Action,
				})
			}
			if len(list) == 0 {
				return usagef("no error is called %q; run brokerctl errors for all", argv[0])
			}
			one := len(argv) == 1
			return a.print(list, func(w io.Writer, wide bool) error { return errorTable(w, list, wide || one) })
		},
	}
}

func errorTable(w io.Writer, list []errorJSON, wide bool) error {
	head := []any{"NAME", "CODE", "OUTCOME", "RETRY"}
	if wide {
		head = append(head, "GRPC", "MEANING", "WHAT TO DO")
	}
	if err := row(w, head...); err != nil {
		return err
	}
	for _, e := range list {
		outcome, retry := "unknown", "no"
		if e.Definite {
			outcome = "definite"
		}
		if e.Retryable {
			retry = "yes"
		}
		cells := []any{e.Name, e.Code, outcome, retry}
		if wide {
			cells = append(cells, e.GRPC, e.Meaning, e.Action)
		}
		if err := row(w, cells...); err != nil {
			return err
		}
	}
	return nil
}
