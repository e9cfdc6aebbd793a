"""Runs in the guest of `cargo xtask versus --io`: a program reads, writes and opens, without anybody, under strace, over bindfs, and as a bystander
and a target of ours. Prints a line of data for each measurement.

Its arguments are the marker of data, the program, how often each operation is done, and the number of rounds.
"""

import json
import os
import signal
import subprocess
import sys

MARKER, PROGRAM, COUNT, ROUNDS = sys.argv[1], sys.argv[2].split(), int(sys.argv[3]), int(sys.argv[4])
PLAIN, PASSED = "/tmp/io/plain/file", "/tmp/io/passed/file"
# What fails there is out of reach: strace counts to 65535.
NEVER = "read,write,openat,pread64,pwrite64"
STRACE = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={NEVER}", "-e", f"inject={NEVER}:error=EIO:when=65535"]
SCENARIO = """version = 1
seed = 1
duration = "1h"
[target.other]
cgroup = "/elsewhere"
[target.meant]
cgroup = "/meant"
[[fault]]
target = "other"
kind = "io.error"
operations = ["read", "write", "open"]
path = "/var/lib/db/**"
[[fault]]
target = "meant"
kind = "io.error"
operations = ["read", "write", "open"]
path = "/tmp/io/**"
nth = "1000000000"
"""


def measure(tool, count, file=PLAIN, before=(), cgroup="/"):
    """Runs the program, and prints how long each operation took, in nanoseconds."""

    def enter():
        with open(f"/sys/fs/cgroup{cgroup}/cgroup.procs", "w") as procs:
            procs.write("0")

    done = subprocess.run([*before, *PROGRAM, file, str(count)], preexec_fn=enter, check=True, stdout=subprocess.PIPE)
    print(MARKER + json.dumps({"tool": tool, **json.loads(done.stdout)}), flush=True)


def apply():
    with open("/tmp/io/scenario.toml", "w") as file:
        file.write(SCENARIO)
    command = ["injector", "--json", "apply", "/tmp/io/scenario.toml"]
    injector = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = []
    for line in injector.stderr:
        said.append(line)
        if line.startswith("armed"):
            return injector
    raise OSError("injector did not arm: " + "".join(said))


def main():
    for directory in ("plain", "passed"):
        os.makedirs(f"/tmp/io/{directory}")
    for cgroup in ("bystander", "elsewhere", "meant"):
        os.mkdir(f"/sys/fs/cgroup/{cgroup}")
    with open(PLAIN, "w") as file:
        file.write("x" * 4096)
    # Each read arrives there, as it must where one is to fail: nothing is answered from the page cache.
    subprocess.run(["bindfs", "-o", "direct_io", "/tmp/io/plain", "/tmp/io/passed"], check=True)
    for number in range(ROUNDS):
        measure("nothing", COUNT)
        measure("strace", COUNT // 10, before=STRACE)
        measure("strace-seccomp", COUNT // 10, before=[*STRACE, "--seccomp-bpf"])
        measure("fuse", COUNT // 10, file=PASSED)
        print(f"others: round {number + 1} of {ROUNDS}", flush=True)
    injector = apply()
    for number in range(ROUNDS):
        measure("bystander", COUNT, cgroup="/bystander")
        measure("other-path", COUNT, cgroup="/elsewhere")
        measure("counted", COUNT, cgroup="/meant")
        print(f"ours: round {number + 1} of {ROUNDS}", flush=True)
    injector.send_signal(signal.SIGINT)
    if injector.wait() != 130:
        raise OSError(f"injector ended with {injector.returncode}")
    subprocess.run(["umount", "/tmp/io/passed"], check=True)


main()
