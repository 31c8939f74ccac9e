package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/spf13/cobra"
)

// defaultAdmin is where a broker of this machine listens for administration unless it was told otherwise.
const defaultAdmin = "127.0.0.1:9094"

// maxReason bounds what is read of a node's answer, in bytes.
const maxReason = 4096

type readyJSON struct {
	Ready  bool   `json:"ready"`
	Answer string `json:"answer"`
}

// readyCmd asks one node about itself, through /readyz of its admin listener: no other node is asked, so that a container's
// health check does not fail where another one is down.
func (a *app) readyCmd() *cobra.Command {
	var admin string
	ready := &cobra.Command{
		Use: "ready", Short: "Say whether the one node at --admin serves, whatever the cluster is like", Args: args(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			r, err := askReady(ctx, admin)
			if err != nil {
				return err
			}
			if err := a.print(r, func(w io.Writer, _ bool) error { return row(w, r.Answer) }); err != nil {
				return err
			}
			if !r.Ready {
				return errUnhealthy
			}
			return nil
		},
	}
	ready.Flags().StringVar(&admin, "admin", defaultAdmin, "admin listener of the node, host:port")
	return ready
}

func askReady(ctx context.Context, admin string) (readyJSON, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", http.NoBody)
	if err != nil {
		return readyJSON{}, usagef("--admin %q is no address: use host:port", admin)
	}
	// The node itself is asked, never a proxy; there is one request, so that no connection need be kept.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	var network *net.OpError
	if err != nil && !errors.As(err, &network) && ctx.Err() == nil { // it answered, in its own way
		return readyJSON{}, fmt.Errorf("%s does not answer in HTTP: it is no admin listener of a broker; see listen.admin", admin)
	}
	if err != nil {
		return readyJSON{}, fmt.Errorf("ask the node: %w; see that it runs and that %s is its listen.admin", err, admin)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReason))
	if closeErr := resp.Body.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return readyJSON{}, fmt.Errorf("read the answer of %s: %w", admin, err)
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusServiceUnavailable:
		return readyJSON{Ready: resp.StatusCode == http.StatusOK, Answer: strings.TrimSpace(string(body))}, nil
	default:
		return readyJSON{}, fmt.Errorf("%s answers %s: it is no admin listener of a broker", admin, resp.Status)
	}
}
