# The first process of libvirtd's namespaces: directories of its own, then libvirtd, until somebody ends both.
#
#     libvirtd.sh DIR     the socket, DIR/libvirt-sock, is seen outside; DIR/definitions has the domains that it knows
set -eu
dir=$1

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
cat >/etc/libvirt/libvirtd.conf <<CONF
unix_sock_dir = "$dir"
auth_unix_rw = "none"
auth_unix_ro = "none"
CONF

mkdir -p /etc/libvirt/qemu
find "$dir/definitions" -name '*.xml' -exec cp -t /etc/libvirt/qemu {} +

# Not exec: the first process of a namespace reaps what others leave behind, and a shell that waits does.
libvirtd -f /etc/libvirt/libvirtd.conf -p "$dir/pid" &
wait
