// Package e2e tests the whole system: regions on real engines, joined by the emulated WAN, used as clients use them.
//
// One lab, with a name of its own, is started for all tests; it runs beside any other. Every test works on users of its own and heals
// what it cut. Without -accept the tests look at outcomes only, with deadlines ten times the bound; with it they run in full
// and print what was measured against its bound.
package e2e
