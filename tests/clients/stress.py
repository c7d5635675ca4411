"""Many at once: threads that share a connection, then connections side by side.

    stress.py URI DOMAIN [--threads N] [--calls N] [--connections N]
"""

import argparse
import threading

import libvirt

parser = argparse.ArgumentParser()
parser.add_argument("uri")
parser.add_argument("domain")
parser.add_argument("--threads", type=int, default=8)
parser.add_argument("--calls", type=int, default=200)
parser.add_argument("--connections", type=int, default=50)
arguments = parser.parse_args()
libvirt.registerErrorHandler(lambda _, error: None, None)

problems = []
# All begin at once.
start = threading.Barrier(arguments.threads)


def one(conn, number):
    """What every thread does; the answers of others must never be its own."""
    domain = conn.lookupByName(arguments.domain)
    uuid = domain.UUIDString()
    start.wait()
    for turn in range(arguments.calls):
        what = (turn + number) % 6
        if what == 0:
            assert conn.lookupByUUIDString(uuid).name() == arguments.domain
        elif what == 1:
            assert domain.info()[0] == libvirt.VIR_DOMAIN_RUNNING
        elif what == 2:
            assert "<name>%s</name>" % arguments.domain in domain.XMLDesc()
        elif what == 3:
            assert arguments.domain in [listed.name() for listed in conn.listAllDomains()]
        elif what == 4:
            wrong = "nobody-%d-%d" % (number, turn)
            try:
                conn.lookupByName(wrong)
                raise AssertionError("there is a domain %s" % wrong)
            except libvirt.libvirtError as error:
                assert error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
                assert wrong in error.get_error_message(), error.get_error_message()
        else:
            assert conn.getInfo()[2] > 0


def guarded(*parameters):
    try:
        one(*parameters)
    except Exception as problem:  # whatever it is, the main thread tells
        start.abort()
        problems.append(problem)


conn = libvirt.open(arguments.uri)
threads = [threading.Thread(target=guarded, args=(conn, number)) for number in range(arguments.threads)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if problems:
    raise problems[0]
assert conn.close() == 0
print("threads: %d x %d calls" % (arguments.threads, arguments.calls), flush=True)

many = [libvirt.open(arguments.uri) for _ in range(arguments.connections)]
for number, conn in enumerate(many):
    assert conn.lookupByName(arguments.domain).isActive()
    if number % 2:
        assert conn.close() == 0
for number, conn in enumerate(many):
    if number % 2 == 0:
        assert conn.lookupByName(arguments.domain).isActive()
        assert conn.close() == 0
print("connections: %d" % len(many), flush=True)
