"""The peers: each runs in the namespace `theirs`, with its own configuration files. ESP is the kernel's."""

import os
import re

from machine import PSK, RUN, Process, network, outer, sh, until


class Peer:
    """A peer for `case`; see `cases.Case` for what its fields mean."""

    # Whether the peer rekeys when asked to.
    rekeys = True

    def __init__(self, case):
        self.case = case
        self.local = outer("theirs", case.outer)
        self.remote = case.peer_sees or outer("ours", case.outer)
        self.local_networks = [network("theirs", case.inner, k) for k in case.peer_networks or case.networks]
        self.remote_networks = [network("ours", case.inner, k) for k in case.networks]
        self.process = None

    def stop(self):
        if self.process:
            self.process.stop()

    def text(self):
        return self.process.text() if self.process else ""


class Strongswan(Peer):
    def start(self):
        case = self.case
        child = [
            f"local_ts = {','.join(self.local_networks)}",
            f"remote_ts = {','.join(self.remote_networks)}",
            "rekey_time = 0",
            case.peer_child,
        ]
        if case.esp:
            child.append(f"esp_proposals = {case.esp}")
        children = "".join(f"{name} {{\n{text}\n}}\n" for name, text in self.children("\n".join(child)))
        with open("/etc/swanctl/swanctl.conf", "w") as file:
            file.write(f"""
                connections {{ c {{
                    version = 2
                    local_addrs = {self.local}
                    remote_addrs = {self.remote}
                    {f"proposals = {case.ike}" if case.ike else ""}
                    rekey_time = 0
                    {case.peer_connection}
                    local {{ auth = psk
                        id = {self.local}
                    }}
                    remote {{ auth = psk }}
                    children {{ {children} }}
                }} }}
                secrets {{ ike {{ secret = "{PSK}" }} }}
                """)
        with open("/etc/strongswan.conf", "w") as file:
            file.write(f"""
                charon-systemd {{
                    load = random nonce openssl aes sha1 sha2 hmac kdf gcm chapoly gmp curve25519 kernel-netlink socket-default vici
                    journal {{ default = -1 }}
                    filelog {{ log {{
                        path = {RUN}/charon.log
                        default = 1
                        flush_line = yes
                        time_format = %T
                    }} }}
                }}
                swanctl {{ load = random openssl }}
                """)
        self.process = Process("peer", ["/usr/sbin/charon-systemd"], "theirs")
        until("charon listens", 30, lambda: os.path.exists("/run/charon.vici"))
        until("charon takes the connection", 20, lambda: "loaded connection" in sh("swanctl --load-all 2>&1", check=False))

    def children(self, common):
        """The Child SAs: one with everything, or one for each network."""
        if not self.case.pairs:
            return [("net", common)]
        lines = [line for line in common.splitlines() if not line.startswith(("local_ts", "remote_ts"))]
        each = zip(self.local_networks, self.remote_networks)
        return [(f"net{k}", "\n".join([f"local_ts = {ours}", f"remote_ts = {theirs}"] + lines)) for k, (ours, theirs) in enumerate(each, 1)]

    def child_names(self):
        return [name for name, _ in self.children("")]

    def initiate(self):
        for name in self.child_names():
            sh(f"swanctl --initiate --child {name} --timeout 30")

    def rekey_child(self):
        sh(f"swanctl --rekey --child {self.child_names()[0]}")

    def rekey_ike(self):
        sh("swanctl --rekey --ike c")

    def stop(self):
        super().stop()
        if os.path.exists("/run/charon.vici"):
            os.remove("/run/charon.vici")

    def text(self):
        path = f"{RUN}/charon.log"
        return open(path, errors="replace").read() if os.path.exists(path) else super().text()


class Libreswan(Peer):
    def start(self):
        case = self.case
        lines = [
            "keyexchange=ikev2", "authby=secret", "auto=add",
            f"left={self.local}", f"leftid={self.local}", f"right={self.remote}", "rightid=%any" if case.peer_sees else f"rightid={self.remote}",
            *case.peer_connection.split("\n"),
        ]
        if case.ike:
            lines.append(f"ike={self.words(case.ike)}")
        if case.esp:
            # The group is separated by a semicolon.
            esp = re.sub("-(dh|modp)", ";\\1", self.words(case.esp))
            lines += [f"esp={esp}", f"esn={'yes' if 'esn' in case.esp else 'no'}", f"pfs={'yes' if ';' in esp else 'no'}"]
        os.makedirs("/etc/ipsec.d", exist_ok=True)
        with open("/etc/ipsec.d/case.conf", "w") as file:
            for name, ours, theirs in self.connections():
                subnets = [f"leftsubnet={ours}", f"rightsubnet={theirs}"]
                file.write(f"conn {name}\n" + "".join(f"\t{line}\n" for line in lines + subnets if line))
        with open("/etc/ipsec.secrets", "w") as file:
            file.write(f': PSK "{PSK}"\n')
        os.chmod("/etc/ipsec.secrets", 0o600)
        os.makedirs("/run/pluto", exist_ok=True)
        if not os.path.exists("/var/lib/ipsec/nss/key4.db"):
            os.makedirs("/var/lib/ipsec/nss", exist_ok=True)
            sh("ipsec initnss", timeout=60)
        self.process = Process("peer", ["/usr/libexec/ipsec/pluto", "--config", "/etc/ipsec.conf", "--nofork", "--stderrlog"], "theirs")
        until("pluto takes the connections", 40, lambda: all(f'"{name}": added' in self.text() for name in self.names()) and "listening for IKE" in self.text())

    @staticmethod
    def words(proposal):
        """A proposal in libreswan's words; ESN and PFS are keys of their own."""
        own = {"ecp256": "dh19", "ecp384": "dh20", "curve25519": "dh31", "chacha20poly1305": "chacha20_poly1305"}
        words = [re.sub("^prf", "", re.sub(r"^aes(\d+)gcm16$", r"aes_gcm\1", own.get(word, word))) for word in proposal.split("-") if word != "esn"]
        return "-".join(re.sub(r"^sha(256|384|512)$", r"sha2_\1", word) for word in words)

    def connections(self):
        """One connection for each pair of networks: libreswan's way to have several."""
        pairs = list(zip(self.local_networks, self.remote_networks)) if self.case.pairs else [(self.local_networks[0], self.remote_networks[0])]
        return [(f"c{k}", ours, theirs) for k, (ours, theirs) in enumerate(pairs, 1)]

    def names(self):
        return [name for name, _, _ in self.connections()]

    def initiate(self):
        for name in self.names():
            sh(f"ipsec whack --initiate --asynchronous --name {name}")

    def rekey_child(self):
        sh("ipsec whack --rekey-child --asynchronous --name c1")

    def rekey_ike(self):
        sh("ipsec whack --rekey-ike --asynchronous --name c1")

    def stop(self):
        super().stop()
        for path in ("/run/pluto/pluto.ctl", "/run/pluto/pluto.pid"):
            if os.path.exists(path):
                os.remove(path)


class Openiked(Peer):
    # It rekeys by its lifetimes alone: `peer_connection` sets them.
    rekeys = False

    def start(self):
        case = self.case
        flows = " ".join(f"from {ours} to {theirs}" for ours, theirs in zip(self.local_networks, self.remote_networks))
        active = "active" if case.initiator == "theirs" else "passive"
        with open("/etc/iked.conf", "w") as file:
            file.write(
                f'ikev2 "c" {active} esp {flows} local {self.local} peer {self.remote} {case.openiked_suites} '
                f'srcid {self.local} {case.peer_connection} psk "{PSK}"\n'
            )
        os.chmod("/etc/iked.conf", 0o600)
        # Generated by its package when that is configured; it does not start without.
        if not os.path.exists("/etc/iked/private/local.key"):
            sh("mkdir -p /etc/iked/private && openssl ecparam -genkey -name prime256v1 -noout -out /etc/iked/private/local.key && openssl ec -in /etc/iked/private/local.key -pubout -out /etc/iked/local.pub && chmod 600 /etc/iked/private/local.key")
        self.process = Process("peer", ["/usr/sbin/iked", "-d", "-vv"], "theirs")
        until("iked listens", 30, lambda: os.path.exists("/var/run/iked.sock") and sh("ikectl show sa", check=False) is not None)

    def initiate(self):
        """It initiates by itself, once a second and later at longer intervals."""
