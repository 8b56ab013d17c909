package pg

import (
	"context"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
)

// Connect opens one connection outside of any pool, for what holds a session for itself (logical decoding, advisory locks). Params are set in the session
// beside the usual ones and win over them. The caller closes it.
func (c Config) Connect(ctx context.Context, params map[string]string) (*pgx.Conn, error) {
	cc, err := c.connConfig()
	if err != nil {
		return nil, fmt.Errorf("connect to database %q: %w", c.Database, err)
	}
	if err := c.setPassword(cc); err != nil {
		return nil, fmt.Errorf("connect to database %q: %w", c.Database, err)
	}
	maps.Copy(cc.RuntimeParams, params)
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("connect to database %q: %w", c.Database, err)
	}
	return conn, nil
}
