//go:build planted

package replication

import (
	"os"

	"github.com/penstock-io/penstock/internal/replication/core"
)

// The bug that PENSTOCK_PLANT names is planted: TestRandomFaults finds all but resume-epoch, which the controller of these
// tests gives no occasion for, within some runs.
func init() {
	if err := core.Plant(os.Getenv("PENSTOCK_PLANT")); err != nil {
		panic(err)
	}
}
