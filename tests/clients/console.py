"""Speaks with a guest's console through a stream with callbacks, as a program with an event loop does.

    console.py URI DOMAIN [--want TEXT SEND]... [--abort]

Waits for each TEXT in turn and then sends SEND and a newline; ends once all TEXTs came. What the console shows goes to
the standard output.
"""

import argparse
import sys

import libvirt

EVENT_READ = libvirt.VIR_STREAM_EVENT_READABLE
EVENT_WRITE = libvirt.VIR_STREAM_EVENT_WRITABLE
EVENT_END = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class Console:
    def __init__(self, arguments):
        libvirt.virEventRegisterDefaultImpl()
        libvirt.registerErrorHandler(lambda _, error: None, None)
        self.wants = list(arguments.want)
        self.seen = b""
        self.sending = b""
        self.problem = None
        self.writable = False
        self.conn = libvirt.open(arguments.uri)
        domain = self.conn.lookupByName(arguments.domain)
        self.stream = self.conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        domain.openConsole(None, self.stream, 0)
        self.stream.eventAddCallback(EVENT_READ | EVENT_END, self.ready, None)
        self.look()

    def ready(self, stream, events, _):
        if events & EVENT_READ:
            data = stream.recv(4096)
            # -2: nothing there after all.
            if data == b"":
                self.problem = "the console has ended"
            elif data != -2:
                sys.stdout.buffer.write(data)
                sys.stdout.flush()
                self.seen += data
        if events & EVENT_WRITE:
            sent = stream.send(self.sending)
            if sent != -2:
                self.sending = self.sending[sent:]
        if events & EVENT_END:
            self.problem = "the stream broke"
        self.look()

    def look(self):
        if self.wants:
            text, send = (word.encode() for word in self.wants[0])
            if text in self.seen:
                self.seen = self.seen[self.seen.index(text) + len(text):]
                self.sending += send + b"\n" if send else b""
                self.wants.pop(0)
                self.look()
                return
        if bool(self.sending) != self.writable:
            self.writable = bool(self.sending)
            write = EVENT_WRITE if self.writable else 0
            self.stream.eventUpdateCallback(EVENT_READ | EVENT_END | write)

    def run(self, abort):
        while not self.problem and (self.wants or self.sending):
            libvirt.virEventRunDefaultImpl()
        if self.problem:
            sys.exit("%s; still wanted were %s" % (self.problem, self.wants))
        self.stream.eventRemoveCallback()
        if abort:
            self.stream.abort()
        else:
            self.stream.finish()
        # The connection goes on after its stream.
        assert self.conn.isAlive()
        self.conn.close()
        print("\nconsole: done", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("uri")
parser.add_argument("domain")
parser.add_argument("--want", nargs=2, action="append", default=[])
parser.add_argument("--abort", action="store_true")
arguments = parser.parse_args()
Console(arguments).run(arguments.abort)
