#!/usr/bin/env bash
# Generates code from the .proto files into a directory of its own and compares it with what is committed. Changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
.bin/buf generate -o "$fresh"
diff -r "$fresh/api/gen" api/gen
diff "$fresh/api/openapi/antipode.swagger.json" api/openapi/antipode.swagger.json
echo "generated code: up to date"
