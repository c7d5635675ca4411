# shellcheck shell=sh source-path=SCRIPTDIR
# The first process of libvirtd's namespaces: directories of its own, then libvirtd, until somebody ends both.
#
#     libvirtd.sh DIR [kerberos|tls|polkit]
#                                     the socket, DIR/libvirt-sock, is seen outside; DIR/definitions has the domains that
#                                     it knows; with "kerberos" it lets in who has a ticket of its own realm, by TCP too;
#                                     with "tls" it has what is in DIR/pki and lets in who has a certificate from there;
#                                     with "polkit" it asks polkit about all but root, as Debian's does by itself
set -eu
dir=$1
listen=

for place in /run /var/log /var/cache /var/lib/libvirt /etc/libvirt; do
    [ -d "$place" ] || continue
    mount -t tmpfs -o mode=755 tmpfs "$place"
done
mkdir -p /run/lock /run/libvirt /var/log/libvirt /var/cache/libvirt

# No virtlogd, no control groups: neither is there in these namespaces.
cat >/etc/libvirt/qemu.conf <<CONF
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
user = "root"
group = "root"
CONF
login=none
if [ "${2:-}" = kerberos ]; then
    . "${0%/*}/kerberos.sh"
    login=sasl
    listen=--listen
fi
[ "${2:-}" != polkit ] || login=polkit
tls=0
if [ "${2:-}" = tls ]; then
    ip link set lo up
    tls=1
    listen=--listen
fi
cat >/etc/libvirt/libvirtd.conf <<CONF
unix_sock_dir = "$dir"
auth_unix_rw = "$login"
auth_unix_ro = "$login"
listen_tls = $tls
key_file = "$dir/pki/serverkey.pem"
cert_file = "$dir/pki/servercert.pem"
ca_file = "$dir/pki/cacert.pem"
listen_tcp = 1
listen_addr = "127.0.0.1"
auth_tcp = "sasl"
CONF

mkdir -p /etc/libvirt/qemu
find "$dir/definitions" -name '*.xml' -exec cp -t /etc/libvirt/qemu {} +

# Not exec: the first process of a namespace reaps what others leave behind, and a shell that waits does.
# shellcheck disable=SC2086  # an option or nothing
libvirtd $listen -f /etc/libvirt/libvirtd.conf -p "$dir/pid" &
wait
