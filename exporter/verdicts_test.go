package exporter

import (
	"testing"

	"github.com/memrecon/memrecon/verdict"
)

// The bound of series is a constant, and counts on so many verdicts.
func TestNumVerdicts(t *testing.T) {
	if n := len(verdict.Verdicts()); n != numVerdicts {
		t.Errorf("there are %d verdicts, and numVerdicts is %d", n, numVerdicts)
	}
}
