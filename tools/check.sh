#!/bin/sh
# Format, lints, documentation, scripts and dependencies; all of them are tried before the answer. Exits with the number of
# those that failed. A check that cannot be made here is shown with its reason, and noted in $BULKHEAD_CHECKS_SKIPPED.
set -u

cd "$(dirname "$0")/.." || exit 1
tools/toolchain.sh || exit 1

failed=0
check() {
    echo "check: $*"
    "$@" || { failed=$((failed + 1)) && echo "check: FAILED: $*"; }
}

# A check that exits with 77 says that it cannot be made here.
check_if_possible() {
    echo "check: $*"
    said=$("$@" 2>&1) && status=0 || status=$?
    echo "$said"
    case $status in
    0) ;;
    77)
        echo "check: skipped: $*"
        echo "$*: $(echo "$said" | tail -n 1)" >>"${BULKHEAD_CHECKS_SKIPPED:-/dev/null}"
        ;;
    *) failed=$((failed + 1)) && echo "check: FAILED: $*" ;;
    esac
}

check cargo fmt --all --check
check cargo clippy ${CI:+--locked} --workspace --all-targets -- -D warnings
# What links with Kerberos is looked at where it can be built.
if [ -e /usr/include/gssapi/gssapi.h ] && ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1; then
    check cargo clippy ${CI:+--locked} --workspace --all-targets --features cli/gssapi,bulkhead-tests/gssapi -- -D warnings
fi
# A workspace of its own, so that nothing else needs the fuzzer's library; nothing is linked here, and it is not built.
CUSTOM_LIBFUZZER_PATH=/nowhere/libfuzzer.a
export CUSTOM_LIBFUZZER_PATH
check cargo clippy ${CI:+--locked} --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
export RUSTDOCFLAGS="-D warnings"
check cargo doc ${CI:+--locked} --workspace --no-deps
# shellcheck disable=SC2317  # called by name
scripts() {
    command -v shellcheck >/dev/null || { echo "shellcheck is not installed" && return 77; }
    git ls-files '*.sh' .ci/run guest/init | xargs shellcheck -x
}
check_if_possible scripts
check_if_possible tools/deny.sh
check_if_possible tools/oldest-rust.sh
check tools/fuzz.sh
exit "$failed"
