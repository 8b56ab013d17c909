// Package archtest holds the tests that keep the repository's structure: which package may import which, what a package may be called, how
// long a main may be. The rules and their reasons are data in rules_test.go; docs/adr holds the decisions behind them.
//
// It looks at source text and at `go list` only; nothing is started.
package archtest
