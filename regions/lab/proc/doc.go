// Package proc keeps one component of a region running: it starts its process, watches whether it is ready, starts it
// again with growing pauses when it ends unexpectedly, and carries out what an operator asks of it.
//
// A component is a main process with everything that descends from it, even when that outlives it: a database node is
// Patroni and its PostgreSQL. What starts and signals processes is behind the Host interface; host_linux.go has the real one,
// which finds a component's processes by their working directory (see Host), so that nothing has to be recorded and a
// supervisor that was killed can be cleaned up after.
//
// The states, as Component.Status reports them:
//
//	stopped ──start──► starting ──probe ok──► ready ◄──probe──► unready
//	   ▲                  ▲                     │
//	   │                  └──pause over── backoff ◄── the main process ended unexpectedly, or crash
//	   └──stop, from any state
//	any ──kill, orphan──► killed ──start──► starting
//	starting, ready, unready ──pause──► paused ──resume──► starting
//
// It guarantees that the processes of a killed component are gone when Kill returns, and that all are gone when Run
// returns. It refuses to restart what somebody killed or stopped, and it never restarts a process that runs but is not
// ready: that is shown, and left to whoever looks.
package proc
