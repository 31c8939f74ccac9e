package python_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/model"
)

// TestClientsPageAgreesWithTheErrorTable holds the four cells of docs/clients.md, and every code it names, against the table.
func TestClientsPageAgreesWithTheErrorTable(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]model.ErrorInfo{}
	for _, row := range model.ErrorTable() {
		byName[row.Name] = row
	}
	code := regexp.MustCompile("`([A-Z]+(?:_[A-Z]+)+)`")
	seen := 0
	for line := range strings.Lines(string(text)) {
		definite := strings.HasPrefix(line, "| **`definite`**")
		if !definite && !strings.HasPrefix(line, "| **not `definite`**") {
			continue
		}
		cells := strings.Split(line, "|")
		for i, retryable := range map[int]bool{2: true, 3: false} {
			for _, found := range code.FindAllStringSubmatch(cells[i], -1) {
				row, known := byName[found[1]]
				if !known || row.Definite != definite || row.Retryable != retryable {
					t.Errorf("%s stands under definite %v, retryable %v; the table says %+v (known: %v)", found[1], definite, retryable, row, known)
				}
				seen++
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d codes were found in the page", seen)
	}
}
