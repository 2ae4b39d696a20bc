"""What the cases need of the emulated machine: programs with deadlines, network namespaces, groundlink, and measurements."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time

RUN = "/run/case"
PSK = "a-pre-shared-key-of-thirty-two-oct"
CONTROL = f"{RUN}/control.sock"


class Failed(Exception):
    """A case failed; the text says what was seen."""


def sh(command, ns=None, timeout=30, check=True):
    """Runs a shell command in the namespace `ns` and returns its output."""
    words = ["sh", "-c", command]
    if ns:
        words = ["ip", "netns", "exec", ns] + words
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"`{command}` ended with {done.returncode}: {done.stdout.strip()[-400:]}")
    return done.stdout


def until(what, seconds, seen):
    """Waits until `seen` returns something true, and returns it. What `seen` raises meanwhile is part of the failure."""
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            found = seen()
            if found:
                return found
        except (OSError, ValueError, Failed, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds} s: {what}" + (f" ({last})" if last else ""))
        time.sleep(0.1)


class Process:
    """A program in the background, with its output in a file."""

    def __init__(self, name, words, ns):
        self.log = f"{RUN}/{name}.log"
        self.name = name
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(["ip", "netns", "exec", ns] + words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def text(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Network:
    """Namespaces `ours` and `theirs` with a router between them. Each gateway has its inner networks on the device `lan`.

    Outer: 192.0.2.1 and 2001:db8:1::1 are ours, 198.51.100.1 and 2001:db8:2::1 theirs; the router's addresses end in 254 and :fe.
    Inner: network K is 10.1.K.0/24 or fd01:K::/64 on our side, 10.2.K.0/24 or fd02:K::/64 on theirs; the gateway has the address ending in 1.
    """

    def __init__(self):
        self.remove()
        batch = ["netns add ours", "netns add router", "netns add theirs"]
        self.ip(batch)
        for ns in ("ours", "router", "theirs"):
            # Duplicate address detection would only delay the first packet.
            forward = 1 if ns == "router" else 0
            sh(f"sysctl -q -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.forwarding={forward} net.ipv4.ip_forward={forward}", ns)
        batch = []
        for side, number, outer in (("ours", 1, "192.0.2"), ("theirs", 2, "198.51.100")):
            batch += [
                f"link add wan netns {side} type veth peer name {side} netns router",
                f"-n {side} link set lo up", f"-n {side} link set wan up", f"-n router link set {side} up",
                f"-n {side} addr add {outer}.1/24 dev wan", f"-n {side} addr add 2001:db8:{number}::1/64 dev wan nodad",
                f"-n router addr add {outer}.254/24 dev {side}", f"-n router addr add 2001:db8:{number}::fe/64 dev {side} nodad",
                f"-n {side} route add default via {outer}.254", f"-n {side} route add default via 2001:db8:{number}::fe",
                f"-n {side} link add lan type dummy", f"-n {side} link set lan up",
            ]
            for k in (1, 2):
                batch += [f"-n {side} addr add 10.{number}.{k}.1/24 dev lan", f"-n {side} addr add fd0{number}:{k}::1/64 dev lan nodad"]
        self.ip(batch)

    @staticmethod
    def ip(lines):
        sh("set -e\n" + "\n".join(f"ip {line}" for line in lines))

    @staticmethod
    def remove():
        sh("ip -all netns del")


def outer(side, family):
    """The outer address of a side."""
    if family == 6:
        return f"2001:db8:{1 if side == 'ours' else 2}::1"
    return "192.0.2.1" if side == "ours" else "198.51.100.1"


def inner(side, family, k=1):
    """The gateway's address in inner network `k` of a side."""
    number = 1 if side == "ours" else 2
    return f"fd0{number}:{k}::1" if family == 6 else f"10.{number}.{k}.1"


def network(side, family, k=1):
    """Inner network `k` of a side."""
    number = 1 if side == "ours" else 2
    return f"fd0{number}:{k}::/64" if family == 6 else f"10.{number}.{k}.0/24"


class Groundlink:
    """The gateway under test, with one tunnel `t`."""

    def __init__(self, tunnel):
        """Writes the configuration: `tunnel` holds the keys of the tunnel, in TOML."""
        with open(f"{RUN}/psk", "w") as file:
            file.write(PSK)
        os.chmod(f"{RUN}/psk", 0o600)
        with open(f"{RUN}/groundlink.toml", "w") as file:
            file.write(f'[gateway]\ncontrol = "{CONTROL}"\n{tunnel}')
        self.process = None

    def start(self):
        self.process = Process("groundlink", ["/run/tests/groundlink", "run", "--config", f"{RUN}/groundlink.toml"], "ours")
        until("groundlink answers", 20, self.status)

    def request(self, method, path):
        """A request to the control socket; returns the JSON of the answer."""
        connection = http.client.HTTPConnection("groundlink", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(CONTROL)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status >= 400:
            raise Failed(f"{method} {path}: {answer.status} {body.decode(errors='replace')[:200]}")
        return json.loads(body or b"{}")

    def status(self):
        """The status of the tunnel."""
        if self.process.process.poll() is not None:
            raise Failed("groundlink ended: " + self.process.text()[-300:])
        return self.request("GET", "/v1/status")["tunnels"][0]

    def rekey(self, ike):
        self.request("POST", "/v1/tunnels/t/rekey" + ("?ike=true" if ike else ""))

    def up_within(self, seconds):
        """Waits until the tunnel is up; returns its status."""
        try:
            return until("the tunnel is up", seconds, lambda: self.is_up())
        except Failed as failure:
            error = self.status().get("last_error")
            raise Failed(f"{failure}; last error: {error['code'] + ': ' + error['text'] if error else 'none'}")

    def is_up(self):
        status = self.status()
        return status if status["state"] == "up" else None

    def stop(self):
        if self.process:
            self.process.stop()


class Ping:
    """Pings at a steady rate from one side to the other, until stopped."""

    def __init__(self, family, k=1, interval=0.01, source="ours"):
        other = "theirs" if source == "ours" else "ours"
        words = ["ping", f"-{family}", "-n", "-D", "-i", str(interval), "-I", inner(source, family, k), inner(other, family, k)]
        if os.path.exists(f"{RUN}/ping.log"):
            os.remove(f"{RUN}/ping.log")
        self.process = Process("ping", words, source)

    def replies(self):
        return self.process.text().count("icmp_seq=")

    def carry(self, count, seconds=30):
        """Waits until so many more replies have come."""
        wanted = self.replies() + count
        until(f"{count} more replies", seconds, lambda: self.replies() >= wanted)

    def stop(self):
        """Ends the pings; returns how many were sent and the numbers of those without a reply."""
        # The last ones may be on their way: what counts is every one before the last that came back.
        self.process.stop(signal.SIGINT)
        text = self.process.text()
        received = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", text)}
        sent = int((re.search(r"(\d+) packets transmitted", text) or [0, 0])[1])
        last = max(received, default=0)
        if not received or sent - last > 20:
            raise Failed(f"pings stopped coming back: {sent} sent, the last answered is {last}")
        return sent, sorted(set(range(1, last + 1)) - received)


def ping_once(family, source, k=1, other_k=None, count=3, size=56, seconds=15):
    """Pings from one side until `count` in a row come back, for at most `seconds`."""
    other = "theirs" if source == "ours" else "ours"
    command = f"ping -{family} -n -q -c {count} -i 0.1 -W 2 -s {size} -I {inner(source, family, k)} {inner(other, family, other_k or k)}"
    until(f"`{command}` from {source}", seconds, lambda: sh(command, source, check=False).find(" 0% packet loss") > 0)


# A TCP connection that carries octets one way: the receiver prints how many came.
_SINK = "import socket,sys; s=socket.create_server((sys.argv[1],5001),family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET); s.settimeout(30); c,_=s.accept(); c.settimeout(30); n=0\nwhile b:=c.recv(65536): n+=len(b)\nprint(n)"
_SOURCE = "import socket,sys; s=socket.create_connection((sys.argv[2],5001),20,(sys.argv[1],0)); s.settimeout(30); s.sendall(bytes(int(sys.argv[3])))"


def tcp(family, source, octets, k=1):
    """Sends octets over TCP from one side to the other and fails unless all of them arrive within 40 s."""
    other = "theirs" if source == "ours" else "ours"
    from_, to = inner(source, family, k), inner(other, family, k)
    sink = Process("sink", ["python3", "-u", "-c", _SINK, to], other)
    until("the receiver listens", 10, lambda: ":5001 " in sh("ss -ltn", other))
    try:
        sh(f"python3 -c '{_SOURCE}' {from_} {to} {octets}", source, timeout=40)
        until("all octets arrive", 20, lambda: sink.text().strip().endswith(str(octets)))
    except (subprocess.TimeoutExpired, Failed) as failure:
        raise Failed(f"TCP from {source} stalled: {str(failure)[-80:]}")
    finally:
        sink.stop()
        os.remove(sink.log)
