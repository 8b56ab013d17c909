// Package lab owns the local world: it starts the regions of a topology on this machine, on real engines, keeps their components
// running, injects faults, and takes everything away again.
//
// Each region is a network namespace (package network); each component in it is a process that is supervised (package
// proc) as package engine says. A Lab lives in the process that started it: tests use it directly, and regionctl runs it in a
// daemon that serves package control.
//
// It guarantees that at most one process runs a lab of a name; that after Close, or after a Start that failed or was
// cancelled, no process, namespace or device of the lab is left, and that its data are; and that the next Start, or Sweep,
// takes away what a supervisor that was killed left behind. What belongs to a lab is known by where it is, not by notes that
// could be out of date: a process belongs to it when it lives in one of the lab's namespaces, or works in a directory below the
// lab's. Nothing else is ever signalled.
//
// It needs root, for the namespaces; the engines run as an unprivileged user. It doesn't limit memory or CPU of regions, and
// all share one kernel and one disk: a fault of those is not emulated.
package lab
