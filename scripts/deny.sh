#!/usr/bin/env bash
# Checks dependencies: banned ones, duplicates, licences and sources; known advisories too where
# their database can be reached. Builds cargo-deny into the cache once.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hansa
export PATH=$PATH:$cache/tools/bin

if ! command -v cargo-deny >/dev/null; then
    echo "building cargo-deny $version into $cache/tools, once (some minutes)"
    # It runs for seconds, so it need not be fast, only built fast.
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off
    export CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0
    cargo install --locked --quiet --root "$cache/tools" "cargo-deny@$version"
fi

cargo deny --all-features check bans licenses sources

# The database lives in a git repository elsewhere; no network is no reason to fail.
if timeout 60 cargo deny --all-features fetch db >/dev/null 2>&1; then
    cargo deny --all-features check --disable-fetch advisories
else
    echo "advisories: not checked (their database cannot be reached)"
fi
