package redistest

import (
	"fmt"
	"io"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// TestSubscriptions: messages are no answers, in either protocol, so that faults still hit what they are set for.
func TestSubscriptions(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		for _, protocol := range []int{2, 3} {
			t.Run(fmt.Sprintf("RESP%d", protocol), func(t *testing.T) {
				t.Parallel()
				ctx, proxy, _ := setup(t, s)
				direct := s.Client()
				channel := fmt.Sprintf("%s:%d", s.Prefix, protocol)
				client := redis.NewClient(&redis.Options{Addr: proxy.Addr, Protocol: protocol, MaxRetries: -1})
				t.Cleanup(func() { client.Close() })
				subscription := client.Subscribe(ctx, channel+"a", channel+"b")
				t.Cleanup(func() { subscription.Close() })
				for range 2 {
					_, err := subscription.Receive(ctx)
					require.NoError(t, err)
				}
				for i := range 3 {
					require.NoError(t, direct.Publish(ctx, channel+"a", i).Err())
				}
				for i := range 3 {
					m, err := subscription.ReceiveMessage(ctx)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint(i), m.Payload)
				}
				require.NoError(t, subscription.Ping(ctx))
				pong, err := subscription.Receive(ctx)
				require.NoError(t, err)
				require.IsType(t, &redis.Pong{}, pong)

				lost := proxy.DropReply("PING", 1)
				require.NoError(t, direct.Publish(ctx, channel+"b", "before").Err())
				m, err := subscription.ReceiveMessage(ctx)
				require.NoError(t, err)
				require.Equal(t, "before", m.Payload)
				require.NoError(t, subscription.Ping(ctx))
				_, err = subscription.Receive(ctx)
				require.ErrorIs(t, err, io.EOF)
				require.NoError(t, lost.Wait(ctx))
			})
		}
	})
}

// TestConfirmations: a SUBSCRIBE is answered once per channel, and a fault hits after the last.
func TestConfirmations(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		a, b := s.Prefix+"a", s.Prefix+"b"
		w := dial(t, proxy.Addr)
		w.send("SUBSCRIBE " + a + " " + b)
		require.Contains(t, w.next(), a)
		require.Contains(t, w.next(), b)
		w.send("UNSUBSCRIBE", "SUBSCRIBE "+a, "PING")
		for range 3 {
			require.Contains(t, w.next(), "subscribe")
		}
		require.Contains(t, w.next(), "pong")

		lost := proxy.SwallowReply("SUBSCRIBE", 1)
		deaf := dial(t, proxy.Addr)
		deaf.send("PING", "SUBSCRIBE "+a+" "+b)
		require.Equal(t, "+PONG", deaf.next())
		require.NoError(t, lost.Wait(ctx))
		require.EqualValues(t, 2, client.Publish(ctx, a, "m").Val(), "the server sees two subscribers")
		require.Contains(t, w.next(), "m")
		deaf.requireSilent()
	})
}

// TestWordsOfMessagesInAnswers: an ordinary answer may look like a message.
func TestWordsOfMessagesInAnswers(t *testing.T) {
	t.Parallel()
	Each(t, func(t *testing.T, s *Server) {
		ctx, proxy, client := setup(t, s)
		require.NoError(t, client.RPush(ctx, s.Prefix, "message", "channel", "payload").Err())
		proxy.InjectError("LRANGE", 2, "ERR injected")
		w := dial(t, proxy.Addr)
		w.send("LRANGE "+s.Prefix+" 0 -1", "LRANGE "+s.Prefix+" 0 -1", "PING")
		require.Contains(t, w.next(), "message")
		require.Equal(t, "-ERR injected", w.next())
		require.Equal(t, "+PONG", w.next())
	})
}
