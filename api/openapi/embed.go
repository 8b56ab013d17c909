// Package openapi holds the OpenAPI 2.0 document of the public REST API, which is generated from the .proto files (make generate).
package openapi

import _ "embed"

//go:embed antipode.swagger.json
var document string

// Document is the document as JSON.
func Document() []byte { return []byte(document) }
