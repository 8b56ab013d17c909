#!/usr/bin/env bash
# Installs the distribution packages that Antipode needs and that are missing, and a pinned Patroni beside the distribution's, and prints what it does.
#
#   tools/deps.sh run    what `make up` needs
#   tools/deps.sh test   that, and what `make test` and `make bench` need
#
# The packages' own services are neither started nor enabled: while packages are unpacked a policy-rc.d
# that forbids starting stands in the way, and what was enabled by the installation is disabled again.
# A second run finds nothing to do and needs neither root nor a network.
set -euo pipefail

run=(postgresql patroni python3-pip redis-server haproxy varnish varnish-modules openjdk-17-jre-headless maven iproute2 make curl procps)
test=(gcc libc6-dev bind9 dnsperf dnsutils)
units=(postgresql redis-server haproxy varnish varnishncsa patroni etcd named)

case "${1:-}" in
run) want=("${run[@]}") ;;
test) want=("${run[@]}" "${test[@]}") ;;
*)
	echo "usage: tools/deps.sh run|test" >&2
	exit 2
	;;
esac

# A JDK from another source serves as well as the distribution's JRE.
have() {
	case "$1" in
	openjdk-17-jre-headless) command -v java >/dev/null && java -version 2>&1 | grep -Eq '"(1[7-9]|2[0-9])' ;;
	maven) command -v mvn >/dev/null ;;
	*) dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'install ok installed' ;;
	esac
}

# Patroni of the version that deploy/patroni pins, in a directory of its own; the distribution's package brings what it imports.
pins=$(dirname "$0")/../deploy/patroni/requirements.txt
version=$(sed -n 's/^patroni==\([0-9.]*\).*/\1/p' "$pins")
patroni=/usr/local/lib/antipode/patroni-$version

missing=()
for p in "${want[@]}"; do
	have "$p" || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ] && [ -x "$patroni/run" ]; then
	echo "deps: all ${#want[@]} packages and Patroni $version are installed"
	exit 0
fi

sudo=()
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "deps: root is needed to install ${missing[*]} and Patroni $version; run as root, or install sudo" >&2
		exit 1
	fi
	sudo=(sudo)
fi

install_patroni() {
	local new=$patroni.new
	echo "deps: installing Patroni $version into $patroni"
	"${sudo[@]}" rm -rf "$new" "$patroni"
	"${sudo[@]}" mkdir -p "$new"
	# The command of the distribution's Python, whose packages Patroni imports, whatever Python is first in the PATH.
	"${sudo[@]}" /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --require-hashes \
		--no-warn-script-location --target "$new" --requirement "$pins"
	printf '#!/bin/sh\nPYTHONPATH=%s exec /usr/bin/python3 %s/bin/patroni "$@"\n' "$patroni" "$patroni" | "${sudo[@]}" tee "$new/run" >/dev/null
	"${sudo[@]}" chmod 0755 "$new/run"
	"${sudo[@]}" mv "$new" "$patroni"
}

if [ ${#missing[@]} -eq 0 ]; then
	install_patroni
	echo "deps: done"
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	echo "deps: this is not a Debian-like system; install these by hand: ${missing[*]}" >&2
	exit 1
fi

echo "deps: installing ${missing[*]}"
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
	"${sudo[@]}" chmod 0755 "$policy"
	made_policy=1
fi
cleanup() {
	[ -z "$made_policy" ] || "${sudo[@]}" rm -f "$policy"
}
trap cleanup EXIT

# postgresql-common would otherwise make and start a cluster of its own.
if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
	"${sudo[@]}" mkdir -p /etc/postgresql-common
	echo 'create_main_cluster = false' | "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 update
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
	install --no-install-recommends "${missing[@]}"
if [ -d /run/systemd/system ]; then
	for u in "${units[@]}"; do
		"${sudo[@]}" systemctl disable --quiet "$u" 2>/dev/null || true
	done
fi
[ -x "$patroni/run" ] || install_patroni
echo "deps: done"
