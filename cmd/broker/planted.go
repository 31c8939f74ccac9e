//go:build planted

package main

import "github.com/penstock-io/penstock/internal/replication/core"

// plant names the planted bug that this build has: go build -tags planted -ldflags "-X main.plant=NAME". Such a build
// breaks promises on purpose, to show that the proofs notice.
var plant string

func init() {
	if err := core.Plant(plant); err != nil {
		panic(err)
	}
}
