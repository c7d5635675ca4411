"""Collects statistics of all guests, as a monitoring agent does, and prints them as one JSON object.

    stats.py URI [ROUNDS]
"""

import json
import sys

import libvirt

libvirt.registerErrorHandler(lambda _, error: None, None)
conn = libvirt.openReadOnly(sys.argv[1])
GROUPS = {
    "state": libvirt.VIR_DOMAIN_STATS_STATE,
    "cpu": libvirt.VIR_DOMAIN_STATS_CPU_TOTAL,
    "balloon": libvirt.VIR_DOMAIN_STATS_BALLOON,
    "vcpu": libvirt.VIR_DOMAIN_STATS_VCPU,
    "net": libvirt.VIR_DOMAIN_STATS_INTERFACE,
    "block": libvirt.VIR_DOMAIN_STATS_BLOCK,
}
result = {}
for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
    result["all"] = {domain.name(): stats for domain, stats in conn.getAllDomainStats(0)}
    active = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    result["active"] = sorted(domain.name() for domain, _ in conn.getAllDomainStats(GROUPS["state"], active))
    domains = conn.listAllDomains()
    result["groups"] = {
        name: {domain.name(): sorted(stats) for domain, stats in conn.domainListGetStats(domains, group)}
        for name, group in GROUPS.items()
    }
    result["one"] = {
        domain.name(): {
            "info": domain.info(),
            "memory": domain.memoryStats() if domain.isActive() else None,
            "vcpus": domain.vcpus()[0] if domain.isActive() else None,
            "max_vcpus": domain.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_MAXIMUM),
            "cpu": domain.getCPUStats(True) if domain.isActive() else None,
            "limits": domain.memoryParameters(),
            "emulator": domain.emulatorPinInfo(),
        }
        for domain in domains
    }
    result["host"] = {
        "cpu": conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS),
        "memory": conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS),
        "free": conn.getFreeMemory(),
        "map": conn.getCPUMap()[0],
    }
try:
    domains[0].destroy()
    result["refused"] = None
except libvirt.libvirtError as error:
    result["refused"] = [error.get_error_code(), error.get_error_message()]
conn.close()
print(json.dumps(result))
