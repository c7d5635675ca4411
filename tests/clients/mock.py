"""Asks a mock host what libvirt's binding can ask, and prints for each question what kind of answer comes.

    mock.py URI

One line for each question: its name, a tab, and the type of the result or the number of the error.
"""

import sys

import libvirt

libvirt.registerErrorHandler(lambda _, error: None, None)
conn = libvirt.open(sys.argv[1])

DOCUMENT = "<domain type='%s'><name>%s</name><memory>%s</memory>%s<os><type>hvm</type></os></domain>"
DISK = "<disk type='file' device='disk'><source file='/x'/><target dev='vdb' bus='virtio'/></disk>"
CPU = "<cpu><arch>x86_64</arch><model>qemu64</model></cpu>"
LIVE, CONFIG, BOTH = 1, 2, 3


def ask(name, call, *arguments):
    """Prints what kind of answer a call gets, and returns the answer."""
    try:
        answer = call(*arguments)
        kind = type(answer).__name__
    except libvirt.libvirtError as error:
        answer, kind = None, f"error {error.get_error_code()}"
    shown = ", ".join(repr(argument) for argument in arguments if not isinstance(argument, libvirt.virStream))
    print(f"{name}({shown})", kind, sep="\t")
    return answer


def ask_all(prefix, target, names):
    for name in names.split():
        ask(prefix + name, getattr(target, name))


def ask_host():
    ask_all(
        "host.",
        conn,
        "getType getVersion getLibVersion getHostname getURI getInfo getCapabilities getSysinfo getFreeMemory"
        " getSecurityModel isAlive isEncrypted isSecure listAllDomains listDomainsID listDefinedDomains numOfDomains"
        " numOfDefinedDomains getCPUMap getAllDomainStats getMemoryParameters getSEVInfo numOfNetworks listNetworks"
        " listAllNetworks listDefinedNetworks numOfStoragePools listAllStoragePools listAllInterfaces numOfInterfaces"
        " listAllNWFilters listAllSecrets listAllNWFilterBindings",
    )
    for kind in (None, "test", "bogus"):
        ask("host.getMaxVcpus", conn.getMaxVcpus, kind)
    for first in (0, 1, 2, -1):
        ask("host.getCellsFreeMemory", conn.getCellsFreeMemory, first, 1)
    ask("host.getFreePages", conn.getFreePages, [4], 0, 1)
    for cpu in (-1, 0, 99):
        ask("host.getCPUStats", conn.getCPUStats, cpu)
    ask("host.getMemoryStats", conn.getMemoryStats, -1)
    for arch in ("x86_64", "i686", "aarch64", "riscv64", "mips", "bogus"):
        ask("host.getCPUModelNames", conn.getCPUModelNames, arch)
    ask("host.compareCPU", conn.compareCPU, CPU)
    ask("host.baselineCPU", conn.baselineCPU, [CPU])
    ask("host.getDomainCapabilities", conn.getDomainCapabilities, None, None, None, None, 0)
    ask("host.domainXMLToNative", conn.domainXMLToNative, "qemu-argv", "<x/>", 0)
    ask("host.suspendForDuration", conn.suspendForDuration, 0, 60, 0)
    for name in ("test", "nobody"):
        ask("host.lookupByName", conn.lookupByName, name)
    for number in (1, 99):
        ask("host.lookupByID", conn.lookupByID, number)
    for flags in [1 << bit for bit in range(14)] + [1 << 20]:
        ask("host.listAllDomains", conn.listAllDomains, flags)
    ask("host.getAllDomainStats", conn.getAllDomainStats, 1, 0)
    ask("host.getAllDomainStats", conn.getAllDomainStats, 0xFFFF, 1 << 31)


def ask_domain(prefix, dom):
    ask_all(
        prefix,
        dom,
        "ID OSType UUIDString name isActive isPersistent isUpdated autostart info state maxMemory maxVcpus vcpus"
        " vcpuPinInfo emulatorPinInfo vcpusFlags XMLDesc hasCurrentSnapshot snapshotNum snapshotListNames"
        " listAllSnapshots listAllCheckpoints hasManagedSaveImage schedulerType schedulerParameters memoryStats jobInfo"
        " jobStats controlInfo securityLabel diskErrors fsInfo getTime hostname launchSecurityInfo blkioParameters",
    )
    for flags in (2, 1 << 20):
        ask(prefix + "XMLDesc", dom.XMLDesc, flags)
    for flags in (LIVE, CONFIG, BOTH):
        for call in ("vcpuPinInfo", "emulatorPinInfo", "memoryParameters", "numaParameters", "perfEvents", "ioThreadInfo"):
            ask(prefix + call, getattr(dom, call), flags)
        ask(prefix + "interfaceParameters", dom.interfaceParameters, "testnet0", flags)
        ask(prefix + "metadata", dom.metadata, 1, None, flags)
    for flags in (1, 2, 3, 4, 8):
        ask(prefix + "vcpusFlags", dom.vcpusFlags, flags)
    for total in (True, False):
        ask(prefix + "getCPUStats", dom.getCPUStats, total)
    for source in (0, 1, 9):
        ask(prefix + "interfaceAddresses", dom.interfaceAddresses, source)
    for name in ("testnet0", "none"):
        ask(prefix + "interfaceStats", dom.interfaceStats, name)
    for path in ("vda", "/guest/diskimage1", "none"):
        ask(prefix + "blockStats", dom.blockStats, path)
        ask(prefix + "blockInfo", dom.blockInfo, path)
        ask(prefix + "blockJobInfo", dom.blockJobInfo, path, 0)
        ask(prefix + "blockIoTune", dom.blockIoTune, path, 0)
    for points in (None, ["/"], ["/none"]):
        ask(prefix + "fsFreeze", dom.fsFreeze, points)
        ask(prefix + "fsThaw", dom.fsThaw, points)
    for point in (None, "/", "/none"):
        ask(prefix + "fSTrim", dom.fSTrim, point, 0)
    ask(prefix + "setUserPassword", dom.setUserPassword, "root", "x", 0)
    ask(prefix + "sendKey", dom.sendKey, 0, 0, [1], 1, 0)
    ask(prefix + "abortJob", dom.abortJob)
    ask(prefix + "setTime", dom.setTime, {"seconds": 1, "nseconds": 0}, 0)
    for count in (0, 1, 2, 9):
        for flags in (0, LIVE, CONFIG, BOTH, 4, 6, 8):
            ask(prefix + "setVcpusFlags", dom.setVcpusFlags, count, flags)
    for kib in (0, 1, 4096, 1 << 24):
        for flags in (0, LIVE, CONFIG, BOTH, 4, 6):
            ask(prefix + "setMemoryFlags", dom.setMemoryFlags, kib, flags)
    ask(prefix + "pinVcpu", dom.pinVcpu, 0, (True,))
    ask(prefix + "pinEmulator", dom.pinEmulator, (True,), 0)
    ask(prefix + "attachDevice", dom.attachDevice, DISK)
    for kind, text in ((0, "a\nb"), (1, "title"), (1, "a\nb"), (9, "x")):
        ask(prefix + "setMetadata", dom.setMetadata, kind, text, None, None, 0)
        ask(prefix + "metadata", dom.metadata, kind, None, 0)
    for text in ("<a b='1'/>", "<a"):
        ask(prefix + "setMetadata", dom.setMetadata, 2, text, "k", "urn:k", 0)
        ask(prefix + "metadata", dom.metadata, 2, "urn:k", 0)
    ask(prefix + "openConsole", dom.openConsole, None, conn.newStream(0), 0)


def ask_life():
    """Only calls after which both hosts are in the same state, whatever they answer."""
    dom = conn.lookupByName("test")
    for name, again in (("suspend", True), ("resume", True), ("shutdown", True), ("create", True), ("destroy", False)):
        ask("life." + name, getattr(dom, name))
        if again:
            ask("life.again." + name, getattr(dom, name))
        ask("life.state", dom.state)
        if name == "shutdown":
            for refused in (dom.reboot, dom.reset, dom.injectNMI):
                ask("life." + refused.__name__, refused, 0)
    ask("life.destroy", dom.destroy)
    dom.create()
    dom.suspend()
    ask("life.paused.shutdown", dom.shutdown)
    if dom.isActive():
        dom.destroy()
    ask("life.createWithFlags", dom.createWithFlags, 1)
    if dom.isActive():
        dom.destroy()
    for name in ("undefine", "undefine", "destroy"):
        ask("life." + name, getattr(dom, name))
    dom = conn.createXML(DOCUMENT % ("test", "transient", 4096, ""), 0)
    ask("life.transient.undefine", dom.undefine)
    ask("life.transient.destroy", dom.destroy)
    ask("life.transient.state", dom.state)


def ask_documents():
    for kind in ("kvm", "qemu", "xen", "lxc", "vz", "none", "bogus"):
        ask("new.defineXML", conn.defineXML, DOCUMENT % (kind, "n" + kind, 4096, ""))
        ask("new.createXML", conn.createXML, DOCUMENT % (kind, "c" + kind, 4096, ""), 0)
    maximum = "<maxMemory slots='%d'>%d</maxMemory>"
    for memory, more in ((0, ""), (1, ""), (1500, maximum % (2, 1500)), (1500, maximum % (2, 1499)), (1, maximum % (0, 9))):
        ask("new.defineXML", conn.defineXML, DOCUMENT % ("test", "memory", memory, more))
    ask("new.defineXML", conn.defineXML, "<domain type='test'><memory>1</memory><os><type>hvm</type></os></domain>")
    for text in ("x", "<domain", "<network/>"):
        ask("new.defineXML", conn.defineXML, text)


ask_host()
ask_domain("on.", conn.lookupByName("test"))
ask_domain("off.", conn.defineXML(DOCUMENT % ("test", "off", 4096, "")))
ask_life()
ask_documents()
