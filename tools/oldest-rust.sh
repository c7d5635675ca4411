#!/bin/sh
# Whether the oldest Rust that Cargo.toml names still builds the tree: no dependency may ask for a newer one, and where that
# toolchain is installed, everything is checked with it. Where it is not, exits 77: skipped.
set -eu
cd "$(dirname "$0")/.."

oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
cargo metadata --format-version 1 ${CI:+--locked} >target/metadata.json
python3 - "$oldest" target/metadata.json <<'PYTHON'
import json, sys

def number(version):
    return tuple(int(part) for part in version.split(".")[:2])

oldest = number(sys.argv[1])
packages = json.load(open(sys.argv[2]))["packages"]
newer = [f"{p['name']} {p['version']} needs Rust {p['rust_version']}" for p in packages
         if p["rust_version"] and number(p["rust_version"]) > oldest]
print("\n".join(newer) or f"no dependency needs a newer Rust than {sys.argv[1]}")
sys.exit(bool(newer))
PYTHON

if ! rustup run "$oldest" rustc --version >/dev/null 2>&1; then
    echo "Rust $oldest is not installed here: nothing is built with it"
    exit 77
fi
cargo "+$oldest" check ${CI:+--locked} --workspace --all-targets --target-dir target/oldest
