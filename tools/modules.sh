#!/usr/bin/env bash
# Keeps the workspace's module files tidy: every module by itself (GOWORK=off), then all of them together (go work sync).
#
#   tools/modules.sh verify   shows what would change, in a copy of the tree; changes nothing
#   tools/modules.sh fix      changes it
set -euo pipefail
cd "$(dirname "$0")/.."

tidy() { # in the workspace at $PWD
	local module
	# Twice: what go work sync raises in one module, tidying may have to follow in another.
	for _ in 1 2; do
		for module in $(go list -m -f '{{.Dir}}'); do
			GOWORK=off go -C "$module" mod tidy
		done
		go work sync
	done
}

case "${1:-}" in
verify)
	copy=$(mktemp -d)
	trap 'rm -rf "$copy"' EXIT
	git ls-files -z --cached --others --exclude-standard -- '*.go' '*go.mod' '*go.sum' go.work go.work.sum |
		tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$copy"
	# //go:embed needs its files to exist.
	git ls-files -z --cached --others --exclude-standard -- deploy services regions api/openapi |
		tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$copy"
	(cd "$copy" && tidy)
	drift=0
	while IFS= read -r file; do
		diff -u "$file" "$copy/$file" || drift=1
	done < <(cd "$copy" && find . -name go.mod -o -name go.sum -o -name 'go.work*')
	[ "$drift" = 0 ] || exit 1
	echo "module files: tidy"
	;;
fix)
	tidy
	;;
*)
	echo "usage: tools/modules.sh verify|fix" >&2
	exit 2
	;;
esac
