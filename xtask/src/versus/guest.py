"""Runs in the guest of `cargo xtask versus`: puts each fault up, sends, and prints a line of data for each measurement.

Its argument is the plan, a JSON object: `Plan` in plan.rs says what it holds.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

PLAN = json.loads(sys.argv[1])
SERVER, PORT = "10.99.0.2", PLAN["port"]
DATAGRAM = b"x" * PLAN["datagram_bytes"]
CLONE_NEWNET = 0x40000000
TICKS = os.sysconf("SC_CLK_TCK")


def run(line):
    subprocess.run(line.split(), check=True)


def enter_netns(name):
    with open(f"/run/netns/{name}") as netns:
        if ctypes.CDLL(None, use_errno=True).setns(netns.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")


def enter_cgroup(path):
    with open(f"/sys/fs/cgroup{path}/cgroup.procs", "w") as procs:
        procs.write("0")


def child(work, netns, cgroup, cpu):
    """Forks a process that does the work in a namespace, a cgroup and on one processor; returns its pid."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        enter_cgroup(cgroup)
        enter_netns(netns)
        # Where there is one processor they share it.
        os.sched_setaffinity(0, {min(cpu, os.cpu_count() - 1)})
        work()
        os._exit(0)
    return pid


def end(pid):
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


def make_scene():
    """A client and a server, each in a network namespace, joined by a veth pair whose TCP windows bound nothing."""
    for side, other in (("client", "server"), ("server", "client")):
        run(f"ip netns add {side}")
    run("ip link add eth0 netns client type veth peer name eth0 netns server")
    for side, address in (("client", "10.99.0.1"), ("server", SERVER)):
        run(f"ip -n {side} address add {address}/24 dev eth0")
        run(f"ip -n {side} link set lo up")
        run(f"ip -n {side} link set eth0 up")
        for key, value in (
            ("tcp_rmem", "4096 67108864 268435456"),
            ("tcp_wmem", "4096 67108864 268435456"),
            # Else a connection begins with what the one before has learnt under another fault.
            ("tcp_no_metrics_save", "1"),
        ):
            run_in(side, lambda: write(f"/proc/sys/net/ipv4/{key}", value))
    write("/proc/sys/net/core/rmem_max", "67108864")
    write("/proc/sys/net/core/wmem_max", "67108864")
    # Slow start by round-trip times ends at random where the guest's time is uneven.
    write("/sys/module/tcp_cubic/parameters/hystart", "0")
    run(f"ip -n client route replace 10.99.0.0/24 dev eth0 initcwnd {PLAN['tcp_segments']}")
    for cgroup in ("/struck", "/other"):
        os.mkdir(f"/sys/fs/cgroup{cgroup}")
    # A target's devices are those of the namespaces that it uses.
    child(signal.pause, "client", "/other", 0)


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def run_in(netns, work):
    pid = child(work, netns, "/", 0)
    if os.waitpid(pid, 0)[1] != 0:
        raise OSError(f"a step failed in {netns}")


def receive(received):
    """The server: reads what comes by TCP, and counts its bytes where everybody sees them."""
    # Nobody reads the datagrams, which are counted at the device. A reader costs more than all that is compared here, and how often it
    # has to be woken depends on how they come in.
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((SERVER, PORT))

    def read_stream(stream, begun):
        buffer, total = bytearray(1 << 20), begun
        with stream:
            try:
                while length := stream.recv_into(buffer):
                    total += length
                    struct.pack_into("Q", received, 0, total)
            except ConnectionResetError:
                pass

    listener = socket.create_server((SERVER, PORT))
    while True:
        stream, _ = listener.accept()
        # The end of the connection before may have been lost with a queue, so nobody waits for it.
        begun = struct.unpack_from("Q", received)[0]
        threading.Thread(target=read_stream, args=(stream, begun), daemon=True).start()


def send_udp():
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((SERVER, PORT))
    send = sender.send
    while True:
        send(DATAGRAM)


def send_tcp():
    sender = socket.create_connection((SERVER, PORT))
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    block = b"x" * (128 << 10)
    while True:
        sender.sendall(block)


class Fault:
    """One setup while it is up."""

    def __init__(self, setup):
        self.setup, self.injector = setup, None
        self.tc()
        if setup["scenario"]:
            write("/tmp/versus.toml", setup["scenario"])
            command = ["nsenter", "--net=/run/netns/client", "injector", "--json", "apply", "/tmp/versus.toml"]
            self.injector = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            said = []
            for line in self.injector.stderr:
                said.append(line)
                if line.startswith("armed"):
                    break
            else:
                raise OSError("injector did not arm: " + "".join(said))
            # Nobody may have to wait until its words are read.
            threading.Thread(target=self.injector.stderr.read, daemon=True).start()

    def tc(self):
        """Puts up what `tc` makes, in place of what is there. Deleting it drops what waits."""
        if self.setup["tc"]:
            subprocess.run("tc -n client qdisc delete dev eth0 root".split(), stderr=subprocess.DEVNULL)
        for line in self.setup["tc"]:
            run(f"tc -n client {line}")

    def remove(self):
        if self.injector:
            self.injector.send_signal(signal.SIGINT)
            # Interrupted, and everything was taken back.
            if self.injector.wait() != 130:
                raise OSError(f"injector ended with {self.injector.returncode}")
        if self.setup["tc"]:
            run("tc -n client qdisc delete dev eth0 root")


def cpu_s():
    """What all processors have worked: user, nice, system, irq, softirq."""
    with open("/proc/stat") as stat:
        fields = [int(field) for field in stat.readline().split()[1:8]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / TICKS


def packets(server):
    """Packets that have arrived at the server's device."""
    with open(f"/proc/{server}/net/dev") as devices:
        for line in devices:
            name, counters = line.split(":") if ":" in line else ("", "")
            if name.strip() == "eth0":
                return int(counters.split()[1])
    raise OSError("the server has no eth0")


def measure(load, count):
    """What arrives in a window of time, and what all processors work meanwhile."""
    work, warm_up_s = (send_udp, 0.25) if load == "udp" else (send_tcp, PLAN["tcp_warm_up_s"])
    sender = child(work, "client", "/struck", 0)
    time.sleep(warm_up_s)
    before = (time.monotonic(), count(), cpu_s())
    time.sleep(PLAN["seconds"])
    after = (time.monotonic(), count(), cpu_s())
    end(sender)
    seconds, amount, cpu = (late - early for early, late in zip(before, after))
    return {"seconds": seconds, "amount": amount, "cpu_s": cpu}


def main():
    make_scene()
    received = mmap.mmap(-1, 8)
    server = child(lambda: receive(received), "server", "/", 1)
    counts = {"udp": lambda: packets(server), "tcp": lambda: struct.unpack_from("Q", received)[0]}
    time.sleep(0.5)
    cases = list(dict.fromkeys(setup["case"] for setup in PLAN["setups"]))
    for case in cases:
        for number in range(PLAN["rounds"]):
            for setup in (one for one in PLAN["setups"] if one["case"] == case):
                fault = Fault(setup)
                for load in ("udp", "tcp"):
                    fault.tc()
                    data = {"case": case, "tool": setup["tool"], "load": load, **measure(load, counts[load])}
                    print(PLAN["marker"] + json.dumps(data), flush=True)
                fault.remove()
            print(f"{case}: round {number + 1} of {PLAN['rounds']}", flush=True)
    end(server)


main()
