#!/usr/bin/env bash
# Installs the suite, as the lock file has it, beside this script, and runs it; see run.mjs. Nothing else here needs Node.
#
#   tools/cache-tests/run.sh FILE    where the results go
set -euo pipefail

if [ $# -ne 1 ]; then
	echo "usage: tools/cache-tests/run.sh FILE" >&2
	exit 2
fi
file=$(realpath -m "$1")
cd "$(dirname "$0")"
PATH=$PATH:/usr/sbin
for program in node npm varnishd; do
	if ! command -v "$program" >/dev/null; then
		echo "cache-tests: there is no $program; install the packages varnish, nodejs (18 or newer) and npm" >&2
		exit 1
	fi
done
if ! cmp -s package-lock.json node_modules/.installed; then
	npm ci --ignore-scripts --no-audit --no-fund
	cp package-lock.json node_modules/.installed
fi
exec node --no-warnings run.mjs "$file"
