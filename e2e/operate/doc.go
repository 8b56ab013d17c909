// Package operate tests what an operator does with the programs in bin/: start, look, walk, break, stop, and start again.
package operate
