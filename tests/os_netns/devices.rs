//! TUN devices.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use groundlink::os::netlink::HostAddress;
use groundlink::os::netns::Namespace;
use groundlink::os::tun::{Carrier, Tun, TunError};
use groundlink::os::{Device, OffloadMode, OutPacket, ReadBatch};

use super::{as_root, device, eventually, ip, ip_tool, next_packet, site};

#[test]
fn a_tun_device_passes_packets_in_both_directions() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let socket = namespace
            .run(|| UdpSocket::bind("10.9.0.1:7000"))
            .unwrap()
            .unwrap();
        socket.send_to(b"out", "10.9.0.2:7001").unwrap();

        let packet = next_packet(&tun, 17);
        assert_eq!(&packet[12..20], [10, 9, 0, 1, 10, 9, 0, 2]);
        assert_eq!(packet[28..], *b"out");
        assert_ne!(packet[26..28], [0, 0], "the UDP checksum is complete");

        // The reply is the same datagram with addresses and ports exchanged; the checksums do not depend on their order.
        let mut reply = packet.clone();
        reply[12..20].rotate_left(4);
        reply[20..24].rotate_left(2);
        assert_eq!(tun.write(&[OutPacket::whole(&reply)]).unwrap(), 1);
        let mut buffer = [0; 16];
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert_eq!(
            socket.recv_from(&mut buffer).unwrap(),
            (3, "10.9.0.2:7001".parse().unwrap())
        );
    });
}

#[test]
fn a_new_tunnel_device_has_its_mtu_and_queue_length_and_no_link_local_address() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        let link = netlink.link(tun.index()).unwrap();
        assert_eq!(
            (link.name.as_str(), link.mtu, link.up, link.carrier),
            ("gl-a", 1400, true, true)
        );
        assert_eq!(netlink.link_named("gl-a").unwrap(), link);
        let on_device = |a: &&HostAddress| a.device == tun.index();
        let addresses = netlink.addresses().unwrap();
        let addresses: Vec<IpAddr> = addresses
            .iter()
            .filter(on_device)
            .map(|a| a.address)
            .collect();
        assert_eq!(addresses, [ip("10.9.0.1")], "no link-local address");
        assert!(ip_tool(&namespace, "link show gl-a").contains("qlen 1000"));

        netlink.set_mtu(tun.index(), 1390).unwrap();
        tun.set_carrier(Carrier::Down).unwrap();
        let link = netlink.link(tun.index()).unwrap();
        assert_eq!((link.mtu, link.carrier), (1390, false));
        tun.set_carrier(Carrier::Up).unwrap();
        assert!(netlink.link(tun.index()).unwrap().carrier);

        drop(tun);
        assert!(
            netlink.link_named("gl-a").unwrap_err().is_not_found(),
            "closing the descriptor deletes the device"
        );
    });
}

#[test]
fn packets_sent_to_an_operational_device_are_never_dropped() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        let socket = namespace
            .run(|| UdpSocket::bind("10.9.0.1:7000"))
            .unwrap()
            .unwrap();
        for round in 0..100 {
            tun.set_carrier(Carrier::Down).unwrap();
            eventually(|| !netlink.link(tun.index()).unwrap().operational);
            tun.set_carrier(Carrier::Up).unwrap();
            eventually(|| netlink.link(tun.index()).unwrap().operational);
            socket.send_to(&[round], "10.9.0.2:7001").unwrap();
            assert_eq!(next_packet(&tun, 17)[28..], [round]);
        }
    });
}

#[test]
fn reads_and_writes_of_a_deleted_device_fail_as_not_connected() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        ip_tool(&namespace, "link del gl-a");
        let read = tun
            .read(&mut ReadBatch::new())
            .map_err(|error| error.kind());
        let packet = [0x45; 40];
        let written = tun
            .write(&[OutPacket::whole(&packet)])
            .map_err(|error| error.kind());
        let not_connected = Err(io::ErrorKind::NotConnected);
        assert_eq!((read, written), (not_connected, not_connected));
    });
}

#[test]
fn a_device_name_in_use_is_rejected() {
    as_root(|| {
        let (namespace, _tun) = site("gl-a", "10.9.0.1");
        ip_tool(&namespace, "tuntap add dev gl-kept mode tun");
        for name in ["gl-a", "gl-kept", "lo"] {
            let error = namespace
                .run(|| Tun::create(name, OffloadMode::Off))
                .unwrap()
                .unwrap_err();
            assert!(
                matches!(error, TunError::NameTaken { .. }),
                "{name}: {error}"
            );
            assert!(error.to_string().contains(name));
        }
    });
}

#[test]
fn a_write_rejected_by_the_kernel_fails_for_that_packet_only() {
    as_root(|| {
        let (_namespace, tun) = site("gl-a", "10.9.0.1");
        let not_ip = [0xf0; 40];
        assert!(tun.write(&[OutPacket::whole(&not_ip)]).is_err());
        let ip_packet = [0x45; 40];
        assert_eq!(
            tun.write(&[OutPacket::whole(&ip_packet), OutPacket::whole(&not_ip)])
                .unwrap(),
            1
        );
        assert_eq!(
            tun.read(&mut ReadBatch::new())
                .map_err(|e| e.kind())
                .unwrap_or(0),
            0
        );
    });
}

#[test]
fn devices_are_removed_in_one_request_that_spares_all_others() {
    as_root(|| {
        let namespace = Namespace::new().unwrap();
        let ours: Vec<Tun> = (0..100)
            .map(|n| device(&namespace, &format!("gl-{n}")))
            .collect();
        let other = device(&namespace, "other");
        // The group that would be the first choice is somebody else's.
        ip_tool(&namespace, "link set other group 1735131136");
        let mut netlink = namespace.netlink().unwrap();
        let named = |tun: &Tun| (tun.index(), tun.name().to_owned());
        let mut devices: BTreeMap<u32, String> = ours.iter().map(named).collect();
        // A device that is gone already is no obstacle, nor is another program's device that has its index.
        devices.insert(9999, "gl-gone".to_owned());
        devices.insert(other.index(), "gl-before".to_owned());
        let begin = Instant::now();
        assert_eq!(netlink.remove_devices(&devices).unwrap(), 100);
        println!("100 devices removed after {:?}", begin.elapsed());
        let left = netlink.links().unwrap();
        let names: BTreeSet<&str> = left.iter().map(|link| link.name.as_str()).collect();
        assert!(names.contains("other") && names.contains("lo"), "{names:?}");
        assert!(
            !names.iter().any(|name| name.starts_with("gl-")),
            "{names:?}"
        );
        assert_eq!(netlink.remove_devices(&BTreeMap::new()).unwrap(), 0);
        assert!(netlink.link(other.index()).is_ok());
        let begin = Instant::now();
        drop(ours);
        println!("their descriptors closed after {:?}", begin.elapsed());
    });
}
