#!/bin/sh
# Holds the dependencies to deny.toml. Where cargo-deny is missing it is built into target/tools, without optimisation: that
# takes less than a minute. The database of advisories comes from the network; without it that part is left out, exit 77.
set -eu
cd "$(dirname "$0")/.."

tools=$PWD/target/tools
PATH=$PATH:$tools/bin
if ! command -v cargo-deny >/dev/null; then
    timeout 900 cargo install --quiet --locked --debug --root "$tools" --version 0.20.2 cargo-deny
fi
cargo-deny --log-level error check --hide-inclusion-graph bans licenses sources
if ! timeout 60 cargo-deny --log-level error fetch db >/dev/null 2>&1; then
    echo "the database of advisories cannot be fetched: known vulnerabilities are not looked for"
    exit 77
fi
cargo-deny --log-level error check --hide-inclusion-graph --disable-fetch advisories
