#!/bin/sh
# Installs the Debian packages that are missing, and nothing else; root is asked for only then:
#
#     tools/packages.sh [--no-services] [COMMAND=]PACKAGE...
#
# With COMMAND=, the package is needed only where that command is not found: a machine may have it from elsewhere.
# With --no-services, no package starts a service of its own while it is installed.
set -eu

services=yes
[ "${1:-}" != --no-services ] || { services=no && shift; }

missing() {
    for want in "$@"; do
        package=${want#*=}
        case $want in
        *=*) command -v "${want%%=*}" >/dev/null 2>&1 && continue ;;
        esac
        # shellcheck disable=SC2016  # dpkg-query expands it
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf ' %s' "$package"
    done
}

needed=$(missing "$@")
[ -n "$needed" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "packages: install these first (their names on Debian):$needed" >&2
    exit 1
fi

if [ "$(id -u)" -eq 0 ]; then
    root=
elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    root=sudo
else
    echo "packages: Debian packages are missing. Run this as root, then try again:" >&2
    echo "    apt-get update && apt-get install --no-install-recommends$needed" >&2
    exit 1
fi

# Debian's packages ask this program before they start something. One that the machine has already stays as it is.
# shellcheck disable=SC2016  # the inner shell expands it
quietly='
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap "rm -f $policy" EXIT
        trap "exit 1" HUP INT TERM
        printf "#!/bin/sh\nexit 101\n" >$policy
        chmod 755 $policy
    fi
    "$@"'

# apt solves conflicts: a package that is newer than its fellows (from backports, say) may have to go.
install() {
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends
    [ $services = yes ] || set -- sh -c "$quietly" sh "$@"
    # shellcheck disable=SC2086  # words on purpose
    $root "$@" $needed </dev/null
}

update() {
    echo "packages: the package lists are missing or old; fetching them"
    $root apt-get -q update </dev/null
}

echo "packages: installing$needed"
install || { update && install; }

# What had to go may be on the list itself; its turn is now, in the version that fits.
needed=$(missing "$@")
[ -z "$needed" ] || install
needed=$(missing "$@")
[ -z "$needed" ] || { echo "packages: apt cannot install these together with the others:$needed" >&2 && exit 1; }
