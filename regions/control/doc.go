// Package control keeps each region in the state that it should have: it observes all regions, votes, and acts on what a majority of observers agrees on. One process of it runs in every region; there is no leader.
//
//	probes → opinion (opinion.go) → ballot ─┐                        ┌→ records of regions (follow.go)
//	                                        ├→ global store → tally ─┼→ snapshots for name servers (feed.go)
//	ballots of the other regions' observers ┘  (tally.go)            └→ the region's balancer (loops.go)
//
// It owns the votes, the decisions on the life of a region (see region.State), the gates before a region is let into DNS, the orders of operators, and the snapshots that name servers answer from.
//
// It guarantees that no minority of observers takes a region out of DNS, however wrong they are, and that without a majority, or without news, everything stays as it was. A record changes only from the one that the
// decision was made on, so that of several controllers one is first, and one that wakes up with an old view changes nothing. Nothing is decided by the time of day.
//
// It refuses orders after which no region would be usable, or those that remain would not have the capacity, unless they are overridden; that is audited.
//
// Not covered: a world of two regions has two observers, both of whom are a majority, so there nobody is taken out by votes. What one may order is not limited by who asks: the API is for operators inside the region.
package control
