#!/usr/bin/env bash
# Installs the distribution packages that Antipode needs and that are missing, and prints what it does.
#
#   tools/deps.sh run    what `make up` needs
#   tools/deps.sh test   that, and what `make test` and `make bench` need
#
# The packages' own services are neither started nor enabled: while packages are unpacked a policy-rc.d
# that forbids starting stands in the way, and what was enabled by the installation is disabled again.
# A second run finds nothing to do and needs neither root nor a network.
set -euo pipefail

run=(postgresql patroni redis-server haproxy openjdk-17-jre-headless maven iproute2 make curl procps)
test=(gcc libc6-dev)
units=(postgresql redis-server haproxy patroni etcd)

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

missing=()
for p in "${want[@]}"; do
	have "$p" || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
	echo "deps: all ${#want[@]} packages are installed"
	exit 0
fi

if ! command -v apt-get >/dev/null; then
	echo "deps: this is not a Debian-like system; install these by hand: ${missing[*]}" >&2
	exit 1
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
	if ! command -v sudo >/dev/null; then
		echo "deps: root is needed to install ${missing[*]}; run as root, or install sudo" >&2
		exit 1
	fi
	sudo=(sudo)
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
echo "deps: done"
