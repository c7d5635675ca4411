# shellcheck shell=sh disable=SC2154  # sourced: dir is set by libvirtd.sh
# A realm of Kerberos in the namespaces of libvirtd.sh, with the key of one daemon and the ticket of one user; sourced.
#
# Below $dir/kerberos: krb5.conf for whoever takes part, keytab for the daemon, ticket for the user ann.
realm=BULKHEAD.TEST
kerberos=$dir/kerberos
mkdir -p "$kerberos/sasl2"

# Nobody is asked for names: there is no network but this one.
cat >"$kerberos/krb5.conf" <<CONF
[libdefaults]
    default_realm = $realm
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    ignore_acceptor_hostname = true
[realms]
    $realm = {
        kdc = 127.0.0.1:88
    }
[domain_realm]
    localhost = $realm
CONF
cat >"$kerberos/kdc.conf" <<CONF
[realms]
    $realm = {
        database_name = $kerberos/principals
        key_stash_file = $kerberos/stash
        acl_file = $kerberos/acl
        kdc_listen = 127.0.0.1:88
        kdc_tcp_listen = 127.0.0.1:88
    }
[logging]
    kdc = FILE:$kerberos/kdc.log
CONF
cat >"$kerberos/sasl2/libvirt.conf" <<CONF
mech_list: gssapi
keytab: $kerberos/keytab
CONF
export KRB5_CONFIG="$kerberos/krb5.conf" KRB5_KDC_PROFILE="$kerberos/kdc.conf" KRB5_KTNAME="$kerberos/keytab"
export KRB5RCACHEDIR="$kerberos" SASL_CONF_PATH="$kerberos/sasl2"

ip link set lo up
kdb5_util create -s -r "$realm" -P master
kadmin.local -r "$realm" addprinc -pw secret ann
kadmin.local -r "$realm" addprinc -randkey libvirt/localhost
kadmin.local -r "$realm" ktadd -k "$kerberos/keytab" libvirt/localhost
# It listens when it goes to the background.
krb5kdc -r "$realm" -P "$kerberos/kdc.pid"
echo secret | kinit -c "FILE:$kerberos/ticket" ann
