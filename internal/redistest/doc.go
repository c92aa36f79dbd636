// Package redistest is a Redis for a test: a fast one that is not quite Redis, a real one, and a bad network in front of
// either.
//
// # Two servers
//
// [Mini] starts miniredis in this process. It answers in microseconds and is always there, and it is the one to develop
// against. Its TTLs run with the wall clock here, which they do not by default. It still differs from Redis: it has no
// CLIENT UNBLOCK, no FUNCTION, no ACL, never runs out of memory, trims MAXLEN ~ exactly, and its PUBLISH returns before
// the subscribers have the message.
//
// [Real] starts a redis-server that belongs to one test, which may kill it, pause it, and start it again on the data it
// left behind:
//
//	server := redistest.Real(t, redistest.WithPersistence(redistest.AOFAlways))
//	client := server.Client()
//	server.Kill()  // SIGKILL: no goodbye, nothing flushed
//	server.Start() // same port, same directory, ready when it returns
//
// The program is found in BOBBIN_TEST_REDIS_SERVER or in PATH. Where there is none the test is skipped and says so; with
// BOBBIN_REQUIRE_REDIS=1, which CI sets, it fails instead.
//
// [Each] runs one test against both. The real server is then [Shared] by all tests of the package, so every test keeps
// its keys and channels under [Server.Prefix] and never uses FLUSHALL. A package that uses Each or Shared hands its tests
// to [Main], which stops that server and fails the package for goroutines left running:
//
//	func TestMain(m *testing.M) { os.Exit(redistest.Main(m)) }
//
//	func TestStore(t *testing.T) {
//		t.Parallel()
//		redistest.Each(t, func(t *testing.T, server *redistest.Server) {
//			client := server.Client()
//			// ...
//		})
//	}
//
// # A bad network
//
// [NewProxy] stands between a client and a server and understands what they say to each other, so that a test can aim:
// lose the reply to the second EVALSHA of the claim script, after the server ran it.
//
//	proxy := redistest.NewProxy(t, server.Addr)
//	proxy.Label(claimScript.Hash(), "claim")
//	lost := proxy.DropReply("claim", 2)
//	// ... the worker runs against proxy.Addr ...
//	require.NoError(t, lost.Wait(ctx))
//
// The faults are the ones networks have. A request can get lost, so that it never ran ([Proxy.DropRequest]); its reply
// can get lost, so that it ran and nobody knows ([Proxy.DropReply], [Proxy.SwallowReply]); it can arrive long after its
// sender gave up ([Proxy.HoldRequest]). Connections are cut ([Proxy.Cut]), refused ([Proxy.Refuse]) or silent
// ([Proxy.BlackHole]). A server can refuse a command without running it ([Proxy.InjectError]). What no network does, the
// proxy does not do either: a connection that lost one byte carries no later ones, so a client is never handed the reply
// to another question.
package redistest
