package consumer

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/bobbin-run/bobbin/queue"
)

func TestLedger(t *testing.T) {
	t.Parallel()
	l := newLedger()
	of := func(id string) *job {
		return &job{id: id, token: "w-1:7:1", arrival: &arrival{incarnation: "w-1"}}
	}
	a, b, c := of("a"), of("b"), of("c")
	l.add([]*job{a, b})
	require.Equal(t, 2, l.size())
	l.remove([]item{{job: a}})
	l.add([]*job{c}) // where a was
	before := l.known()
	l.remove([]item{{job: a, kind: late}, {job: a.light(), kind: late}})
	require.Equal(t, 2, l.size(), "what comes late strikes out nobody else")
	l.remove([]item{{job: b.light()}})
	for id, now := range map[string]bool{"a": false, "b": false, "c": true} {
		require.Equal(t, now, l.known()(of(id).held()), id)
	}
	require.True(t, before(b.held()), "known is what was there when it was asked for")
	require.False(t, l.known()(queue.Held{ID: "c", Token: "w-1:8:1"}))
	require.True(t, l.holds("w-1"))
	require.False(t, l.holds("w-"), "an incarnation is all that is before the colon")
	l.remove([]item{{job: c}})
	require.Zero(t, l.size())
	require.False(t, l.holds("w-1"))
}
