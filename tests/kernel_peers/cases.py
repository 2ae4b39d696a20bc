#!/usr/bin/env python3
"""The cases, and what each of them checks. `run` starts this inside the emulated machine; see there."""

import fnmatch
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import machine
from machine import RUN, Failed, Groundlink, Network, Ping, network, outer, ping_once, sh, tcp, until
from peers import Libreswan, Openiked, Strongswan

# A case that takes longer has failed.
CASE_SECONDS = 240

PEERS = {"strongswan": Strongswan, "libreswan": Libreswan, "openiked": Openiked}


@dataclass
class Case:
    """A tunnel between groundlink and a peer, and the check of it."""

    peer: str
    what: str
    # Which side initiates the IKE SA: "ours" or "theirs".
    initiator: str = "ours"
    # Address families of the outer and the inner packets.
    outer: int = 4
    inner: int = 4
    # groundlink's key `encapsulation`.
    encapsulation: str = "udp"
    # Proposals of both sides, in the words of swanctl.conf; each side's defaults if None.
    ike: str | None = "aes256gcm16-prfsha256-curve25519"
    esp: str | None = "aes256gcm16-curve25519"
    # The same in OpenIKED's words.
    openiked_suites: str = ""
    # The inner networks of each side by number; the peer's own, where it has fewer.
    networks: tuple = (1,)
    peer_networks: tuple | None = None
    # The peer makes a Child SA for each pair of networks.
    pairs: bool = False
    # More lines: of groundlink's [[tunnel]], of the peer's connection and Child SA.
    tunnel: str = ""
    peer_connection: str = ""
    peer_child: str = ""
    # Where a NAT is between: the address at which the peer sees us, or the one at which we see the peer.
    peer_sees: str | None = None
    we_see: str | None = None
    # Commands in the router before the tunnel starts.
    router: tuple = ()
    # What is checked once the tunnel is up; pings both ways come first, unless the check has to prepare them.
    first_ping: bool = True
    check: object = None
    # Whether the case is one of the core, which every run of the tests tries; the reason, if the case is known to fail.
    core: bool = False
    known_fault: str | None = None

    @property
    def name(self):
        return f"{self.peer}/{self.what}"


class Run:
    """A case while it runs."""

    def __init__(self, case):
        self.case = case
        self.network = Network()
        self.peer = PEERS[case.peer](case)
        numbers = case.networks
        listed = lambda side: "[" + ", ".join(f'"{network(side, case.inner, k)}"' for k in numbers) + "]"
        proposals = "".join(f'{key} = "{words}"\n' for key, words in (("ike", case.ike), ("esp", case.esp)) if words)
        self.ours = Groundlink(
            f'address = "{outer("ours", case.outer)}"\n\n[[tunnel]]\nname = "t"\npeer = "{case.we_see or outer("theirs", case.outer)}"\n'
            f'psk = {{ file = "{RUN}/psk" }}\nlocal = {listed("ours")}\nremote = {listed("theirs")}\n'
            f'start = "{"auto" if case.initiator == "ours" else "add"}"\nencapsulation = "{case.encapsulation}"\n'
            + ("" if "rekey-check" in case.tunnel else "rekey-check = false\n") + proposals + case.tunnel + "\n"
        )

    def connect(self):
        case = self.case
        for command in case.router:
            sh(command, "router")
        self.peer.start()
        self.ours.start()
        if case.initiator == "theirs":
            self.peer.initiate()
        status = self.ours.up_within(45)
        role = "initiator" if case.initiator == "ours" else "responder"
        if status["ike"]["role"] != role:
            raise Failed(f"groundlink is the {status['ike']['role']}, not the {role}")
        # With UDP encapsulation the kernel's SA says so; without, it must not.
        encapsulated = "encap type espinudp" in sh("ip xfrm state", "theirs")
        wanted = case.encapsulation == "udp" or case.peer_sees or case.we_see
        if encapsulated != bool(wanted):
            raise Failed(f"the peer's ESP is {'' if encapsulated else 'not '}in UDP")
        for k in (case.peer_networks or case.networks) if case.first_ping else ():
            for source in ("ours", "theirs"):
                ping_once(case.inner, source, k)

    def sound(self):
        """No packet may have been refused as forged or repeated."""
        refused = self.ours.status()["refused"]
        for kind in ("auth", "replay"):
            if refused.get(kind):
                raise Failed(f"{refused[kind]} packets refused: {kind}")

    def report(self):
        """What is shown of a failed case."""
        def part(title, text, lines=40):
            print(f"--- {title}")
            print("\n".join("  | " + line for line in text.strip().splitlines()[-lines:]))
        try:
            part("status", machine.json.dumps(self.ours.status()))
        except Exception as error:
            part("status", f"none: {error}")
        if self.ours.process:
            part("groundlink", self.ours.process.text())
        part("peer", self.peer.text(), 60)
        part("kernel's SAs", sh("ip -s xfrm state", "theirs", check=False), 60)
        part("kernel's policies", sh("ip xfrm policy list nosock", "theirs", check=False))
        part("xfrm_stat", sh("grep -vw 0 /proc/net/xfrm_stat", "theirs", check=False))

    def end(self):
        self.ours.stop()
        self.peer.stop()
        Network.remove()


def rekeys(run, rounds=1):
    """Rekeys of both kinds by either side under 100 packets a second each way: nothing may be lost."""
    before = run.ours.status()["rekeys"]
    ping = Ping(run.case.inner)
    counted = dict(before)
    lost_by = []

    def rekeyed(kind, what, begin):
        begin()
        counted[kind] += 1
        until(f"rekeyed: {what}", 20, lambda: run.ours.status()["rekeys"][kind] >= counted[kind])
        # The old SA stays for late packets and is deleted meanwhile.
        ping.carry(100)

    for _ in range(rounds):
        rekeyed("child", "Child SA by groundlink", lambda: run.ours.rekey(ike=False))
        rekeyed("ike", "IKE SA by groundlink", lambda: run.ours.rekey(ike=True))
        if run.peer.rekeys:
            rekeyed("child", "Child SA by the peer", run.peer.rekey_child)
            rekeyed("ike", "IKE SA by the peer", run.peer.rekey_ike)
            rekeyed("child", "Child SA by groundlink on the peer's IKE SA", lambda: run.ours.rekey(ike=False))
    sent, lost = ping.stop()
    after = run.ours.status()["rekeys"]
    if lost:
        raise Failed(f"{len(lost)} of {sent} packets lost at rekeys: numbers {lost[:20]}; groundlink counts {after['packets_lost']}")
    if after["packets_lost"]:
        raise Failed(f"groundlink counts {after['packets_lost']} packets lost at rekeys")
    print(f"  rekeys {after['child'] - before['child']} child {after['ike'] - before['ike']} ike, {sent} packets, none lost")
    run.sound()


def bulk(run):
    """TCP both ways."""
    for source in ("ours", "theirs"):
        tcp(run.case.inner, source, 2_000_000)
    run.sound()


def carries(run):
    """Packets of every size up to the tunnel's, and TCP both ways."""
    bulk(run)
    mtu = run.ours.status()["child"]["mtu"]
    headers = 48 if run.case.inner == 6 else 28
    for source in ("ours", "theirs"):
        ping_once(run.case.inner, source, size=mtu - headers)


def narrow_path(side):
    """The link between the router and one side shrinks to 1280 octets while the tunnel is up."""

    def check(run):
        sh("ip link set wan mtu 1280", side)
        sh(f"ip link set {side} mtu 1280", "router")
        bulk(run)

    return check


def impaired(run):
    """Delay, loss, reordering and duplication on both links of the router: TCP arrives, and rekeys of both kinds succeed."""
    for side in ("ours", "theirs"):
        sh(f"tc qdisc add dev {side} root netem delay 20ms 5ms loss 3% duplicate 3% reorder 20% 50%", "router")
    for source in ("ours", "theirs"):
        tcp(run.case.inner, source, 200_000)
    for kind, begin in (("child", lambda: run.ours.rekey(False)), ("ike", lambda: run.ours.rekey(True)), ("child", run.peer.rekey_child), ("ike", run.peer.rekey_ike)):
        before = run.ours.status()["rekeys"][kind]
        begin()
        until(f"{kind} rekeyed", 60, lambda: run.ours.status()["rekeys"][kind] > before)
    if run.ours.status()["refused"].get("auth"):
        raise Failed("packets refused as forged")
    ping = Ping(run.case.inner)
    try:
        ping.carry(200)
        sent, lost = ping.stop()
    except Failed:
        raise Failed("no packets after the rekeys")
    if len(lost) > sent * 0.4:
        raise Failed(f"{len(lost)} of {sent} packets lost, which 6 % of loss each way does not explain")


def moved(run):
    """The NAT gives our gateway (or the peer) another port: traffic from behind it moves the other end."""
    rekeys(run)
    sh("nft flush ruleset; conntrack -F 2>&1", "router")
    for command in NAT["ours" if run.case.peer_sees else "theirs"](5100):
        sh(command, "router")
    inside_of_nat = "ours" if run.case.peer_sees else "theirs"
    ping_once(run.case.inner, inside_of_nat, seconds=60)
    rekeys(run)


def reauthenticated(run):
    """The peer reauthenticates: a new IKE SA, with nothing lost."""
    before = run.ours.status()["ike"]["spi_i"]
    ping = Ping(run.case.inner)
    until("the peer reauthenticates", 60, lambda: run.ours.status()["ike"]["spi_i"] != before)
    # The old IKE SA is deleted meanwhile.
    ping.carry(600)
    sent, lost = ping.stop()
    if lost:
        raise Failed(f"{len(lost)} of {sent} packets lost: {lost[:20]}")


def every_pair(run):
    """Packets between every pair of networks, then rekeys."""
    for k in run.case.networks:
        for other in run.case.networks:
            if run.case.pairs and k != other:
                continue
            for source in ("ours", "theirs"):
                ping_once(run.case.inner, source, k, other)
    rekeys(run)


def by_lifetimes(run):
    """The peer's short lifetimes and rekeys that groundlink is asked for, under 100 packets a second."""
    before = run.ours.status()["rekeys"]
    ping = Ping(run.case.inner)
    until("two rekeys of the Child SA and one of the IKE SA", 90, lambda: (now := run.ours.status()["rekeys"])["child"] >= before["child"] + 2 and now["ike"] > before["ike"])
    for kind in ("child", "ike"):
        begun = run.ours.status()["rekeys"][kind]
        run.ours.rekey(ike=kind == "ike")
        until(f"rekeyed: {kind}", 20, lambda: run.ours.status()["rekeys"][kind] > begun)
        ping.carry(100)
    sent, lost = ping.stop()
    after = run.ours.status()["rekeys"]
    if lost or after["packets_lost"]:
        raise Failed(f"{len(lost)} of {sent} packets lost: {lost[:20]}; groundlink counts {after['packets_lost']}")
    run.sound()


def interface(run):
    """The peer's policies are bound to an IPsec interface, with routes to it."""
    for line in ("link add ipsec0 type xfrm dev wan if_id 42", "link set ipsec0 up", f"route add {network('ours', run.case.inner)} dev ipsec0 src {machine.inner('theirs', run.case.inner)}"):
        sh(f"ip {line}", "theirs")
    for source in ("ours", "theirs"):
        ping_once(run.case.inner, source)
    rekeys(run)


# Translations by the router, by which side is behind it: a port of the router's own at each mapping.
NAT = {
    "ours": lambda port=5000: [
        "nft add table ip nat",
        "nft 'add chain ip nat post { type nat hook postrouting priority srcnat; }'",
        f"nft 'add rule ip nat post oifname theirs udp dport {{ 500, 4500 }} masquerade to :{port}-{port + 50}'",
    ],
    "theirs": lambda port=5000: [
        "nft add table ip nat",
        "nft 'add chain ip nat post { type nat hook postrouting priority srcnat; }'",
        f"nft 'add rule ip nat post oifname ours udp dport {{ 500, 4500 }} masquerade to :{port}-{port + 50}'",
    ],
}

SUITES = {
    "gcm256": ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-ecp384"),
    "gcm128-nopfs": ("aes128gcm16-prfsha256-ecp256", "aes128gcm16"),
    "cbc-sha1": ("aes128-sha1-modp1024", "aes128-sha1-modp1024"),
    "cbc-sha256": ("aes256-sha256-modp2048", "aes256-sha256-modp2048"),
    "cbc-sha512-nopfs": ("aes256-sha512-modp4096", "aes256-sha512"),
    "chacha": ("chacha20poly1305-prfsha256-curve25519", "chacha20poly1305-curve25519"),
    "gcm-esn": ("aes256gcm16-prfsha256-curve25519", "aes256gcm16-curve25519-esn"),
    "cbc-esn": ("aes256-sha256-modp2048", "aes256-sha256-modp2048-esn"),
}

BOTH = (("initiator", "ours"), ("responder", "theirs"))


def cases():
    for role, initiator in BOTH:
        for peer in ("strongswan", "libreswan"):
            core = peer == "strongswan"
            yield Case(peer, f"udp/{role}", initiator, check=rekeys, core=core or role == "initiator")
            yield Case(peer, f"native/{role}", initiator, encapsulation="auto", check=rekeys, core=core)
            yield Case(peer, f"udp-v6-in-v6/{role}", initiator, outer=6, inner=6, check=rekeys)
            yield Case(peer, f"native-v6-in-v6/{role}", initiator, outer=6, inner=6, encapsulation="auto", check=rekeys, core=core and role == "initiator")
            yield Case(peer, f"udp-v6-in-v4/{role}", initiator, inner=6, check=rekeys)
            yield Case(peer, f"native-v4-in-v6/{role}", initiator, outer=6, encapsulation="auto", check=rekeys)
            yield Case(peer, f"defaults/{role}", initiator, ike=None, esp=None, tunnel='preset = "generic"\nrekey-check = true', check=rekeys, core=core and role == "initiator")
            for suite, (ike, esp) in SUITES.items():
                if not (peer == "libreswan" and suite == "cbc-sha1"):  # MODP 1024 is not built into libreswan.
                    yield Case(peer, f"{suite}/{role}", initiator, ike=ike, esp=esp, encapsulation="auto" if "cbc" in suite else "udp", check=rekeys)
            yield Case(peer, f"several-children/{role}", initiator, networks=(1, 2), pairs=True, check=every_pair)
            for side in ("ours", "theirs"):
                yield Case(peer, f"narrow-{side}/{role}", initiator, check=narrow_path(side))
                yield Case(peer, f"narrow-{side}-native-v6/{role}", initiator, outer=6, inner=6, encapsulation="auto", check=narrow_path(side))
            yield Case(peer, f"impaired/{role}", initiator, check=impaired)
        yield Case("strongswan", f"cidrs/{role}", initiator, networks=(1, 2), check=every_pair, core=role == "responder")
        yield Case("strongswan", f"narrowed/{role}", initiator, networks=(1, 2), peer_networks=(1,), check=rekeys)
        yield Case("strongswan", f"sizes/{role}", initiator, check=carries)
        yield Case("strongswan", f"sizes-native-v6/{role}", initiator, outer=6, inner=6, encapsulation="auto", check=carries)
        yield Case("strongswan", f"tfc/{role}", initiator, peer_child="tfc_padding = mtu", check=carries)
        yield Case("strongswan", f"interface/{role}", initiator, peer_child="if_id_in = 42\nif_id_out = 42", first_ping=False, check=interface)
        for suite, (esp, child) in IKED_ESP.items():
            yield Case("openiked", f"udp-{suite}/{role}", initiator, esp=esp, openiked_suites=f"{IKED} {child}", check=rekeys)
            yield Case("openiked", f"native-{suite}/{role}", initiator, encapsulation="auto", esp=esp, openiked_suites=f"{IKED} {child}", check=rekeys)
        esp, child = IKED_ESP["cbc-sha512"]
        yield Case("openiked", f"lifetimes/{role}", initiator, esp=esp, openiked_suites=f"{IKED} {child}", peer_connection="ikelifetime 40 lifetime 20", check=by_lifetimes)
        yield Case("openiked", f"defaults/{role}", initiator, ike=None, esp=None, tunnel='preset = "generic"\nrekey-check = true', check=rekeys)
    yield Case("strongswan", "nat/ours", "ours", router=NAT["ours"](), peer_sees="%any", check=moved)
    yield Case("strongswan", "nat/theirs", "theirs", router=NAT["theirs"](), we_see="192.0.2.254", check=moved)
    yield Case("strongswan", "reauthentication", "theirs", peer_connection="reauth_time = 20s\nover_time = 60s", check=reauthenticated)


IKED = "ikesa enc aes-256-gcm prf hmac-sha2-256 group curve25519"
# On Linux it can load neither AES-GCM nor HMAC-SHA-256 into the kernel.
IKED_ESP = {
    "cbc-sha512": ("aes256-sha512-curve25519", "childsa enc aes-256 auth hmac-sha2-512 group curve25519"),
    "cbc-sha1-nopfs": ("aes128-sha1", "childsa enc aes-128 auth hmac-sha1"),
}

CASES = list(cases())


def selected(words):
    if words == ["--all"]:
        return CASES
    if words == ["--core"]:
        return [case for case in CASES if case.core]
    return [case for case in CASES if any(fnmatch.fnmatch(case.name, word) for word in words)]


def too_late(_signal, _frame):
    raise Failed(f"not over within {CASE_SECONDS} s")


def run_case(case):
    """Runs one case; returns what failed, or None."""
    shutil.rmtree(RUN, ignore_errors=True)
    os.makedirs(RUN)
    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(CASE_SECONDS)
    run = None
    try:
        run = Run(case)
        run.connect()
        if case.check:
            case.check(run)
        return None
    except (Failed, subprocess.TimeoutExpired, OSError, KeyError) as error:
        signal.alarm(60)
        if run:
            run.report()
        return str(error).replace("\n", " ") if not isinstance(error, KeyError) else f"no {error} in the status"
    finally:
        signal.alarm(60)
        if run:
            run.end()
        signal.alarm(0)


def inside():
    """The machine's part: modules, the selected cases, and a line for each."""
    for module in ("esp4", "esp6", "xfrm_user", "xfrm_interface", "tun", "veth", "dummy", "sch_netem", "nft_masq", "nft_nat", "nft_chain_nat"):
        sh(f"modprobe {module}")
    os.makedirs("/run/lock", exist_ok=True)
    with open("/run/tests/selected") as file:
        cases = selected(file.read().split())
    failed = 0
    for case in cases:
        begin = time.monotonic()
        what = run_case(case)
        seconds = time.monotonic() - begin
        if what is None:
            print(f"case {case.name}: ok ({seconds:.0f} s)")
        else:
            failed += 1
            print(f"case {case.name}: FAILED {what} ({seconds:.0f} s)")
    print(f"cases {len(cases)}, failed {failed}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--inside"]:
        inside()
    else:
        for case in CASES:
            print(f"{case.name}{'  (core)' if case.core else ''}{'  known to fail: ' + case.known_fault if case.known_fault else ''}")
