#!/usr/bin/env bash
# Makes sure that what lies built in CARGO_TARGET_DIR was built from this clone.
#
# Called by every make target that builds. Clones share that folder for the sake of dependencies. Of our own
# crates cargo knows the path within the workspace and the age alone: what another clone built of younger
# sources would pass for ours. Nothing is removed but the marks by which cargo takes a crate as built.
set -euo pipefail

target=${CARGO_TARGET_DIR:?is set by the Makefile}
mark="$target/clone"
here=$(pwd -P)
mkdir -p "$target"
if [ -f "$mark" ] && [ "$(cat "$mark")" = "$here" ]; then
    exit 0
fi
# A folder for each profile (debug, release, dist), where fuzzers build below one for the platform.
rm -rf "$target"/*/.fingerprint/hansa-* "$target"/*/*/.fingerprint/hansa-*
printf '%s\n' "$here" >"$mark"
