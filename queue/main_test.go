package queue_test

import (
	"os"
	"testing"

	"github.com/bobbin-run/bobbin/internal/redistest"
)

func TestMain(m *testing.M) { os.Exit(redistest.Main(m)) }
