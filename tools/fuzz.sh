#!/bin/sh
# Runs every fuzz target for some seconds, 5 unless the first argument says otherwise, from its corpus on. The compiler's own
# coverage passes are enough for libFuzzer, so the ordinary compiler does; cargo-fuzz with a nightly one adds sanitizers.
set -eu
cd "$(dirname "$0")/../fuzz"

seconds=${1:-5}
host=$(rustc -vV | sed -n 's/^host: //p')
target=$PWD/../target/fuzzing
level="-Cllvm-args=-sanitizer-coverage"
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module $level-level=4 $level-inline-8bit-counters $level-pc-table"
export RUSTFLAGS
# Set by check.sh, which only looks at this crate and links nothing.
unset CUSTOM_LIBFUZZER_PATH
cargo build --quiet ${CI:+--locked} --target "$host" --config 'profile.dev.opt-level=1' --config 'profile.dev.debug=0' --target-dir "$target"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=
for source in fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    mkdir "$work/$name"
    seeds=corpus/$name
    [ -d "$seeds" ] || seeds=
    # What is found on the way goes to the first directory and is not kept.
    if "$target/$host/debug/$name" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 \
        -artifact_prefix="$work/$name-" "$work/$name" ${seeds:+"$seeds"} >"$work/$name.log" 2>&1; then
        echo "fuzz: $name: $(grep -c . "$work/$name.log") lines, $(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$work/$name.log") runs"
    else
        failed="$failed $name"
        tail -n 40 "$work/$name.log"
        for artifact in "$work/$name"-*; do
            [ -e "$artifact" ] && base64 "$artifact"
        done
    fi
done
[ -z "$failed" ] || { echo "fuzz: failed:$failed"; exit 1; }
