// Package deploy holds the templates and manifests by which the engines run, one folder for each. It is the module's only Go.
package deploy

import "embed"

// Files are the folders as they stand in the repository.
//
//go:embed haproxy kafka patroni varnish
var Files embed.FS
