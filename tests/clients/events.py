"""Follows the events of a host, as a program with libvirt's own event loop does.

    events.py URI [--only DOMAIN]... [--keepalive SECONDS COUNT] [--read-only]

Every line that it prints is one thing that happened; "ready" is the first. It reads commands, a line each:

    list            the names of all domains
    title NAME      gives a domain a title
    alive           what libvirt thinks of the connection
    drop old        no more events in the old style
    define FILE     the same for create; what a document describes
    start DOMAIN    the same for suspend, resume, reboot, reset, nmi, shutdown, destroy, undefine
    rename DOMAIN NAME
    quit            closes the connection and leaves
"""

import argparse
import os
import sys

import libvirt

KINDS = ["Defined", "Undefined", "Started", "Suspended", "Resumed", "Stopped", "Shutdown", "PMSuspended", "Crashed"]


def say(*words):
    print(*words, flush=True)


class Program:
    def __init__(self, arguments):
        libvirt.virEventRegisterDefaultImpl()
        # The library prints every error besides raising it.
        libvirt.registerErrorHandler(lambda _, error: None, None)
        self.over = False
        self.typed = b""
        open_it = libvirt.openReadOnly if arguments.read_only else libvirt.open
        self.conn = open_it(arguments.uri)
        self.conn.registerCloseCallback(self.closed, None)
        if arguments.keepalive:
            self.conn.setKeepAlive(*arguments.keepalive)

        # Both styles, and the filter, at once: each has a voice of its own.
        self.conn.domainEventRegister(self.old, None)
        self.has_old = True
        lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self.ids = [self.conn.domainEventRegisterAny(None, lifecycle, self.lifecycle, "any")]
        reboot = libvirt.VIR_DOMAIN_EVENT_ID_REBOOT
        self.ids.append(self.conn.domainEventRegisterAny(None, reboot, self.reboot, None))
        balloon = libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE
        self.ids.append(self.conn.domainEventRegisterAny(None, balloon, self.balloon, None))
        metadata = libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE
        self.ids.append(self.conn.domainEventRegisterAny(None, metadata, self.metadata, None))
        for name in arguments.only:
            domain = self.conn.lookupByName(name)
            self.ids.append(self.conn.domainEventRegisterAny(domain, lifecycle, self.lifecycle, "only-" + name))
        libvirt.virEventAddHandle(0, libvirt.VIR_EVENT_HANDLE_READABLE, self.readable, None)

    def old(self, _, domain, event, detail, __):
        say("old", domain.name(), KINDS[event], detail)

    def lifecycle(self, _, domain, event, detail, style):
        say(style, domain.name(), KINDS[event], detail)

    def reboot(self, _, domain, __):
        say("reboot", domain.name())

    def balloon(self, _, domain, actual, __):
        say("balloon", domain.name(), actual)

    def metadata(self, _, domain, kind, uri, __):
        say("metadata", domain.name(), kind, uri)

    def closed(self, _, reason, __):
        say("closed", reason)
        self.over = True

    def readable(self, _, fd, __, ___):
        chunk = os.read(fd, 4096)
        self.typed += chunk
        while b"\n" in self.typed:
            line, self.typed = self.typed.split(b"\n", 1)
            self.command(line.decode())
        if not chunk:
            self.over = True

    def command(self, line):
        try:
            if line == "list":
                say("list", *sorted(domain.name() for domain in self.conn.listAllDomains()))
            elif line.startswith("title "):
                domain = self.conn.lookupByName(line.split()[1])
                domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "a title", None, None)
            elif line == "alive":
                say("alive", self.conn.isAlive())
            elif line == "drop old":
                self.drop_old()
                say("dropped")
            elif line == "quit":
                self.over = True
            else:
                self.verb(*line.split(" "))
                say("did", line)
        except libvirt.libvirtError as error:
            say("error", error.get_error_code(), error.get_error_message())

    def verb(self, verb, what, name=None):
        if verb in ("define", "create"):
            with open(what, encoding="utf-8") as file:
                document = file.read()
            self.conn.defineXML(document) if verb == "define" else self.conn.createXML(document)
            return
        domain = self.conn.lookupByName(what)
        {
            "start": domain.create,
            "suspend": domain.suspend,
            "resume": domain.resume,
            "reboot": domain.reboot,
            "reset": domain.reset,
            "nmi": domain.injectNMI,
            "shutdown": domain.shutdown,
            "destroy": domain.destroy,
            "undefine": domain.undefine,
            "rename": lambda: domain.rename(name),
        }[verb]()

    def drop_old(self):
        if self.has_old:
            self.conn.domainEventDeregister(self.old)
            self.has_old = False

    def run(self):
        say("ready")
        while not self.over:
            libvirt.virEventRunDefaultImpl()
        if self.conn.isAlive():
            for callback in self.ids:
                self.conn.domainEventDeregisterAny(callback)
            self.drop_old()
            self.conn.unregisterCloseCallback()
        # What is left of the connection, which libvirt counts: nothing.
        say("left", self.conn.close())


parser = argparse.ArgumentParser()
parser.add_argument("uri")
parser.add_argument("--only", action="append", default=[])
parser.add_argument("--keepalive", nargs=2, type=int)
parser.add_argument("--read-only", action="store_true")
Program(parser.parse_args()).run()
sys.exit(0)
