#!/usr/bin/env python3
"""A store that hands out a lease, and writers that append to its list under it: what `pause/lease-expiry.toml` strikes.

    lease.py store LEASE_PORT DATA_PORT [--fenced]    grants leases at one port, holds the list at the other
    lease.py writer NAME LEASE_PORT DATA_PORT TIME    gets the lease, reads the list, checks the lease, writes the list with NAME in it

A writer that is paused between its check and its write for longer than its lease overwrites what the next one has written meanwhile. With
`--fenced` the store looks at the token of the lease, which grows with each, and refuses writes with an old one.
"""

import socket
import socketserver
import sys
import threading
import time


class Store:
    def __init__(self, fenced):
        self.fenced, self.lock = fenced, threading.Lock()
        self.owner, self.token, self.until, self.items = "", 0, 0.0, []

    def answer(self, words):
        now = time.monotonic()
        with self.lock:
            match words:
                case ["lease", name, seconds]:
                    if now < self.until and self.owner != name:
                        return "busy"
                    self.owner, self.token, self.until = name, self.token + 1, now + float(seconds)
                    return f"granted {self.token}"
                case ["check", name]:
                    return "valid" if now < self.until and self.owner == name else "expired"
                case ["read"]:
                    return ",".join(self.items)
                case ["write", token, items]:
                    if self.fenced and int(token) < self.token:
                        return "refused"
                    self.items = items.split(",")
                    return "written"
        return "what?"


def serve(store, port):
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for line in self.rfile:
                self.wfile.write(store.answer(line.decode().split()).encode() + b"\n")

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()


class Peer:
    def __init__(self, port):
        self.file = socket.create_connection(("127.0.0.1", port)).makefile("rw")

    def ask(self, request):
        self.file.write(request + "\n")
        self.file.flush()
        return self.file.readline().strip()


def write(name, lease, data, seconds):
    while not (granted := lease.ask(f"lease {name} {seconds}")).startswith("granted"):
        time.sleep(0.02)
    token = granted.split()[1]
    items = [item for item in data.ask("read").split(",") if item]
    if lease.ask(f"check {name}") != "valid":
        return "expired"
    # Whoever is paused here believes still what it has asked.
    return data.ask(f"write {token} {','.join(items + [name])}")


def main(arguments):
    match arguments:
        case ["store", lease, data, *flags]:
            store = Store("--fenced" in flags)
            serve(store, int(lease))
            serve(store, int(data))
            print("serves", flush=True)
            threading.Event().wait()
        case ["writer", name, lease, data, seconds]:
            print(name, write(name, Peer(int(lease)), Peer(int(data)), seconds), flush=True)
        case ["list", data]:
            print(Peer(int(data)).ask("read"))
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
