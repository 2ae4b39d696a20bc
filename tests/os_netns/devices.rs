//! TUN devices.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use groundlink::os::netlink::HostAddress;
use groundlink::os::tun::{Carrier, Tun, TunError};
use groundlink::os::{Device, OffloadMode, OutPacket, ReadBatch};

use super::{as_root, eventually, ip, ip_tool, next_packet, site};

#[test]
fn a_packet_goes_out_and_comes_in_through_a_tun_device() {
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
        assert_ne!(packet[26..28], [0, 0], "the UDP checksum is real");

        // The same datagram with its ends exchanged is the answer; the checksums do not care about the order.
        let mut answer = packet.clone();
        answer[12..20].rotate_left(4);
        answer[20..24].rotate_left(2);
        assert_eq!(tun.write(&[OutPacket::whole(&answer)]).unwrap(), 1);
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
fn a_new_tunnel_device_has_its_mtu_and_queue_no_address_and_no_noise_but_the_kernels() {
    as_root(|| {
        let (namespace, tun) = site("gl-a", "10.9.0.1");
        let mut netlink = namespace.netlink().unwrap();
        let link = netlink.link(tun.index()).unwrap();
        assert_eq!(
            (link.name.as_str(), link.mtu, link.up, link.carrier),
            ("gl-a", 1400, true, true)
        );
        assert_eq!(netlink.link_named("gl-a").unwrap(), link);
        let of_it = |a: &&HostAddress| a.device == tun.index();
        let addresses = netlink.addresses().unwrap();
        let addresses: Vec<IpAddr> = addresses.iter().filter(of_it).map(|a| a.address).collect();
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
            "a device dies with its descriptor"
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
fn a_device_removed_by_somebody_else_is_gone_and_not_just_silent() {
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
        let gone = Err(io::ErrorKind::NotConnected);
        assert_eq!((read, written), (gone, gone));
    });
}

#[test]
fn a_device_name_in_use_is_never_taken_over() {
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
fn a_write_the_kernel_refuses_is_an_error_about_that_packet() {
    as_root(|| {
        let (_namespace, tun) = site("gl-a", "10.9.0.1");
        let no_ip = [0xf0; 40];
        assert!(tun.write(&[OutPacket::whole(&no_ip)]).is_err());
        let good = [0x45; 40];
        assert_eq!(
            tun.write(&[OutPacket::whole(&good), OutPacket::whole(&no_ip)])
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
