//! The shipped kernel settings, applied by systemd-sysctl inside a namespace.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::process::Command;

use groundlink::os::netns::Namespace;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{as_root, eventually, ip_tool};

/// A router advertisement (RFC 4861 §4.2) with a lifetime of half an hour. The kernel fills in the checksum.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn an_advertised_default_route_survives_the_shipped_settings() {
    as_root(|| {
        let (host, router) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        host.connect("up0", &router, "far").unwrap();
        for (namespace, device) in [(&host, "up0"), (&router, "far")] {
            let mut netlink = namespace.netlink().unwrap();
            let index = netlink.link_named(device).unwrap().index;
            netlink.set_up(index).unwrap();
        }
        let socket = router.run(advertiser).unwrap();
        let index = router.netlink().unwrap().link_named("far").unwrap().index;
        socket.set_multicast_if_v6(index).unwrap();
        let all_nodes = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, index);
        let default_route = || ip_tool(&host, "-6 route show default");
        eventually(|| {
            // Fails while the router's link-local address is tentative.
            let _ = socket.send_to(&ADVERTISEMENT, &SockAddr::from(all_nodes));
            default_route().contains("proto ra")
        });

        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/sysctl.conf");
        let mut command = Command::new("/lib/systemd/systemd-sysctl");
        host.enter(command.args(["--prefix=/net", shipped]))
            .unwrap();
        let output = command.output().expect("systemd is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );

        let read = |setting: &str| {
            let read = || groundlink::os::sysctl::read(setting).unwrap();
            host.run(read).unwrap()
        };
        assert_eq!(read("net/ipv6/conf/up0/forwarding"), "1");
        assert_eq!(read("net/ipv6/conf/up0/accept_ra"), "2");
        assert!(default_route().contains("proto ra"), "{}", default_route());
    });
}

/// A raw socket that sends with the hop limit that RFC 4861 §6.1.2 demands.
fn advertiser() -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}
