"""Two hosts on one machine, joined by a slow link: network namespaces with an address each and a shaped pair of virtual
interfaces between them. Needs root and iproute2 (unavailable() says what is missing). mpirun starts a rank on each of them.

    with SlowLink("1gbit") as link:
        subprocess.run(link.mpirun("build/release/bin/plimsoll", "train", "config.yaml"))
"""
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from bench_runs import shared_tool

# mpirun's remote shell: enters the namespace of the host whose address it is given. Hosts have names of their own, since ranks on
# hosts of one name would talk through shared memory.
AGENT = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
address=$1; shift
exec ip netns exec "{prefix}-$address" unshare --uts sh -c 'hostname "$0"; exec sh -c "$1"' "{prefix}-${{address##*.}}" "$*"
"""


def unavailable():
    """Why there can be no slow link here; None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc", "unshare", "mpirun") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found (iproute2, util-linux, openmpi-bin)"
    name = f"plimsoll-{os.getpid()}-trial"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces are not allowed here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


def delay_tool():
    """The source of the program that delays packets, which the kernels here cannot; None where it is not there."""
    source = shared_tool("tapdelay.cpp")
    return source if source and os.path.exists("/dev/net/tun") and shutil.which("c++") else None


class SlowLink:
    """`rate` as tc takes it ("1gbit"); each way. With `delay_us`, each packet is under way for so long: delay_tool() is the link then,
    and takes some time of a core. Removes what it made when it is left, also by a signal."""

    def __init__(self, rate, delay_us=0):
        self.rate = rate
        self.delay_us = delay_us
        self.delayer = None
        self.prefix = f"plimsoll-{os.getpid()}"
        self.addresses = ("10.83.7.1", "10.83.7.2")
        self.made = []
        self.folder = None
        self.handlers = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            self.handlers[number] = signal.signal(number, self._stop)
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.delayer:
            self.delayer.kill()
            self.delayer.wait()
            self.delayer = None
        for name in self.made:
            self._end_processes(name)
            subprocess.run(["ip", "netns", "del", name], check=False)  # with the interfaces in it
        self.made = []
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def mpirun(self, *command):
        """The command that runs `command` with a rank on each host."""
        tcp = ["--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "slow0", "--mca", "oob_tcp_if_include", "slow0"]
        hosts = ",".join(f"{a}:1" for a in self.addresses)
        return [str(self.folder / "agent"), self.addresses[0], "exec mpirun --mca plm_rsh_agent " + str(self.folder / "agent") +
                f" --host {hosts} --bind-to none " + " ".join(tcp) + " -n 2 " + " ".join(f"'{c}'" for c in map(str, command))]

    def _stop(self, number, _):
        raise SystemExit(128 + number)

    def _build(self):
        self.folder = Path(tempfile.mkdtemp(prefix="plimsoll-link-"))
        agent = self.folder / "agent"
        agent.write_text(AGENT.format(prefix=self.prefix))
        agent.chmod(0o755)
        names = [f"{self.prefix}-{a}" for a in self.addresses]
        for name in names:
            self._ip("netns", "add", name)
            self.made.append(name)
        if self.delay_us:
            self._start_delayer(names)
        else:
            self._ip("link", "add", "slow0", "netns", names[0], "type", "veth", "peer", "name", "slow0", "netns", names[1])
        for name, address in zip(names, self.addresses):
            self._ip("-n", name, "address", "add", f"{address}/24", "dev", "slow0")
            self._ip("-n", name, "link", "set", "slow0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")
            if self.delay_us:
                self._ip("-n", name, "link", "set", "slow0", "mtu", "9000")
            else:
                self._run("tc", "-n", name, "qdisc", "add", "dev", "slow0", "root", "tbf", "rate", self.rate, "burst", "128kb", "latency", "50ms")

    def _start_delayer(self, names):
        program = self.folder / "delay"
        self._run("c++", "-O2", "-o", str(program), str(delay_tool()))
        units = {"gbit": 1000, "mbit": 1}
        number = self.rate.rstrip("abcdefghijklmnopqrstuvwxyz")
        megabits = float(number) * units[self.rate[len(number):]]
        # Before everything else on its core: a link does not wait until ranks that are busy leave it one.
        first = ["chrt", "--fifo", "10"] if subprocess.run(["chrt", "--fifo", "10", "true"], capture_output=True).returncode == 0 else []
        self.delayer = subprocess.Popen(first + [str(program), names[0], "slow0", names[1], "slow0", str(megabits), str(self.delay_us)],
                                        stderr=subprocess.PIPE, text=True)
        if self.delayer.stderr.readline().strip() != "ready":
            raise RuntimeError("the link with a delay did not come up")

    def _end_processes(self, name):
        for number in (signal.SIGTERM, signal.SIGKILL):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                try:
                    os.kill(int(pid), number)
                except ProcessLookupError:
                    pass
            if not pids:
                return
            time.sleep(0.3)

    def _ip(self, *arguments):
        self._run("ip", *arguments)

    @staticmethod
    def _run(*command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


def overlapped_seconds(events):
    """Of the events of one rank's trace: seconds of compute, of communication, and in which both ran."""
    total = {}
    edges = []
    for event in events:
        begin, length, lane = event["ts"] * 1e-6, event["dur"] * 1e-6, event["tid"]
        total[lane] = total.get(lane, 0) + length
        edges += [(begin, 1, lane), (begin + length, -1, lane)]
    running, both, last = dict.fromkeys({"compute", *total}, 0), 0.0, 0.0
    for at, change, lane in sorted(edges):
        if running["compute"] and sum(running.values()) > running["compute"]:
            both += at - last
        running[lane] += change
        last = at
    return total.get("compute", 0.0), sum(total.values()) - total.get("compute", 0.0), both
