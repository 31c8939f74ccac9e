//go:build planted

package core

import (
	"fmt"
	"os"
	"testing"
)

// TestMain plants the bug that PENSTOCK_PLANT names: the tests must fail then.
func TestMain(m *testing.M) {
	if err := Plant(os.Getenv("PENSTOCK_PLANT")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}
