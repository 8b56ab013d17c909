// Package drill writes to regions as clients do, keeps outside of them what was acknowledged, and checks afterwards that nothing of it is missing.
//
// It owns the workload (Load), the ledger of writes (Ledger) and the judgement (Check). It knows regions by name and address only: who breaks them, and when they
// are whole again, is the caller's business. It speaks REST as any client does: it signs users up as anybody may, and changes and reads them as one administrator, who stays signed in
// whatever happens to the regions. A region that denies that is found to be wrong, too. In each region one more user signs in, who does nothing but stay signed in, by one region after the other: whatever
// happens, nobody may be signed out by it.
//
// What an outcome means: an acknowledged write must be in every region at the end; a refused one had no effect and must be nowhere; one whose outcome is
// unknown (a broken connection, a time-out, unknown_outcome) may be in all regions or in none. Each field has one writer at a time, so of its values that
// which stands at the end must be the last acknowledged one or one that was tried after it.
package drill
