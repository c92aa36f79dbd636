package main

import (
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/queue"
)

// Who submits many and is refused half-way learns how many are submitted: all again would be those twice.
func TestRefusedHalfWaySaysHowFarItGot(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for refusedAt, want := range map[int]string{1: "refused", 3: "refused (the first 2000 were submitted)"} {
		left, batches := 2*submitBatch+1, 0
		err := feed(func() (queue.Submission, error) {
			if left == 0 {
				return queue.Submission{}, io.EOF
			}
			left--
			return queue.Submission{}, nil
		}, func([]queue.Submission) error {
			if batches++; batches == refusedAt {
				return refused
			}
			return nil
		})
		require.ErrorIs(t, err, refused)
		require.EqualError(t, err, want)
	}
}
