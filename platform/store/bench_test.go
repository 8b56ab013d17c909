package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"antipode.example/platform/id"
)

// BenchmarkWrite compares a write of one field with the bare update of one row, both by several writers on users of their own.
func BenchmarkWrite(b *testing.B) {
	r := newRegion(b, 1, 1)
	users := make([]id.ID, 256)
	for i := range users {
		users[i] = newID(b, uint16(i))
		r.mustSet(b, users[i], own(users[i]), "title", "before")
	}
	if _, err := r.dbs[0].Pool.Exec(b.Context(), "create table bare (id int primary key, body bytea); insert into bare select i, '' from generate_series(0, 255) i"); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 100)
	for name, write := range map[string]func(i int) error{
		"store": func(i int) error {
			user := users[i%len(users)]
			_, err := r.set(b.Context(), user, own(user), "title", fmt.Sprint(i))
			return err
		},
		"bare": func(i int) error {
			_, err := r.dbs[0].Pool.Exec(b.Context(), "update bare set body = $2 where id = $1", i%len(users), body)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			var n atomic.Int64
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := write(int(n.Add(1))); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
