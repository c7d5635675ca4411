#!/bin/sh
# Stops with a useful word when Rust is missing or older than the workspace needs.
set -eu

tree=$(cd "$(dirname "$0")/.." && pwd)
needed=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$tree/Cargo.toml")

advise() {
    echo "$1" >&2
    echo "Debian 12's own rustc is too old. Install the current stable Rust with rustup (https://rustup.rs)," >&2
    echo "then open a new shell, so that cargo is in PATH, and try again." >&2
    exit 1
}

command -v cargo >/dev/null || advise "cargo is not in PATH; Bulkhead needs Rust $needed or newer."
found=$(cd "$tree" && cargo --version | cut -d ' ' -f 2) || advise "cargo is in PATH, but it does not run."
oldest=$(printf '%s\n' "$needed" "${found%%-*}" | sort -V | head -n 1)
[ "$oldest" = "$needed" ] || advise "cargo is $found; Bulkhead needs Rust $needed or newer."
