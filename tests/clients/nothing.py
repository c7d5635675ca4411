"""Asks a host for what it has nothing of: networks, pools, devices, filters, secrets, snapshots, checkpoints.

    nothing.py URI DOMAIN

Prints a JSON object: of each question its answer, or libvirt's error code.
"""

import json
import sys

import libvirt

UUID = "12345678-1234-1234-1234-123456789012"


def main():
    libvirt.virEventRegisterDefaultImpl()
    libvirt.registerErrorHandler(lambda _, error: None, None)
    conn = libvirt.open(sys.argv[1])
    domain = conn.lookupByName(sys.argv[2])
    answers = {}

    def ask(name, question, *arguments):
        try:
            answers[name] = question(*arguments)
        except libvirt.libvirtError as error:
            answers[name] = error.get_error_code()

    for name in [
        "listAllNetworks", "listNetworks", "listDefinedNetworks", "numOfNetworks", "numOfDefinedNetworks",
        "listAllStoragePools", "listStoragePools", "listDefinedStoragePools", "numOfStoragePools",
        "listAllInterfaces", "listInterfaces", "numOfInterfaces", "listAllDevices", "listAllNWFilters",
        "listNWFilters", "numOfNWFilters", "listAllNWFilterBindings", "listAllSecrets", "listSecrets",
        "numOfSecrets",
    ]:
        ask(name, getattr(conn, name))
    ask("listDevices", conn.listDevices, None, 0)
    ask("unknown flags", conn.listAllNetworks, 0x1000)
    for name in [
        "networkLookupByName", "storagePoolLookupByName", "storageVolLookupByKey", "storageVolLookupByPath",
        "interfaceLookupByName", "interfaceLookupByMACString", "nodeDeviceLookupByName", "nwfilterLookupByName",
        "nwfilterBindingLookupByPortDev", "storagePoolLookupByTargetPath",
    ]:
        ask(name, getattr(conn, name), "/none")
    for name in ["networkLookupByUUIDString", "storagePoolLookupByUUIDString", "secretLookupByUUIDString"]:
        ask(name, getattr(conn, name), UUID)
    ask("secretLookupByUsage", conn.secretLookupByUsage, libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, "none")

    for name in ["snapshotNum", "snapshotListNames", "listAllSnapshots", "hasCurrentSnapshot", "snapshotCurrent",
                 "listAllCheckpoints"]:
        ask(name, getattr(domain, name))
    ask("snapshotLookupByName", domain.snapshotLookupByName, "none")
    ask("checkpointLookupByName", domain.checkpointLookupByName, "none")

    ask("networkDefineXML", conn.networkDefineXML, "<network><name>a</name></network>")
    ask("storagePoolDefineXML", conn.storagePoolDefineXML, "<pool type='dir'><name>a</name></pool>")

    heard = lambda *_: None
    for family, take, give in [
        ("network", conn.networkEventRegisterAny, conn.networkEventDeregisterAny),
        ("storage pool", conn.storagePoolEventRegisterAny, conn.storagePoolEventDeregisterAny),
        ("node device", conn.nodeDeviceEventRegisterAny, conn.nodeDeviceEventDeregisterAny),
        ("secret", conn.secretEventRegisterAny, conn.secretEventDeregisterAny),
    ]:
        def both():
            give(take(None, 0, heard, None))
            return "registered"

        ask(family + " events", both)
    json.dump(answers, sys.stdout)


main()
