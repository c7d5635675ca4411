#!/bin/sh
# Format, lints and documentation; all of them are tried before the answer. Exits with the number of those that failed.
set -u

cd "$(dirname "$0")/.." || exit 1
tools/toolchain.sh || exit 1

failed=0
check() {
    echo "check: $*"
    "$@" || { failed=$((failed + 1)) && echo "check: FAILED: $*"; }
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
exit "$failed"
