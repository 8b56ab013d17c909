package auth

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"antipode.example/platform/causal"
	"antipode.example/platform/id"
)

// NoteWrite adds a write to those that a record keeps as the ones that end every session made without knowledge of them, as "<replica>:<n>". An older one of the same replica goes: who covers the later
// covers it. The list is changed in place.
func NoteWrite(list []string, write causal.Dot) []string {
	list = slices.DeleteFunc(list, func(text string) bool {
		old, ok := readWrite(text)
		return ok && old.Replica == write.Replica && old.N <= write.N
	})
	return append(list, fmt.Sprintf("%s:%d", write.Replica, write.N))
}

// ReadWrites reads what NoteWrite has noted. ok is false when something cannot be read, which may be meant for any session; the others are returned all the same.
func ReadWrites(list []string) (writes []causal.Dot, ok bool) {
	ok = true
	for _, text := range list {
		write, good := readWrite(text)
		if !good {
			ok = false
			continue
		}
		writes = append(writes, write)
	}
	return writes, ok
}

// RequiredWrites are what the writes that a user's record in a service has noted revoke. An entry that cannot be read is named by the error; the others are returned all the same.
func RequiredWrites(user id.ID, service string, list []string, at time.Time) ([]Revocation, error) {
	var all []Revocation
	var errs []error
	for _, text := range list {
		w, ok := readWrite(text)
		if !ok {
			errs = append(errs, fmt.Errorf("user %s has revoked what is not the name of a write: %q", user, text))
			continue
		}
		all = append(all, RequiredWrite(user, service, w, at))
	}
	return all, errors.Join(errs...)
}

func readWrite(text string) (causal.Dot, bool) {
	name, number, _ := strings.Cut(text, ":")
	replica, err1 := causal.ParseReplica(name)
	n, err2 := strconv.ParseUint(number, 10, 64)
	return causal.Dot{Replica: replica, N: n}, err1 == nil && err2 == nil && n > 0
}
