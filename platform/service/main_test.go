package service

import (
	"testing"

	"antipode.example/platform/pg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
