use super::*;
use crate::os::poll::Waiter;

fn pair(host: &str) -> (UdpSocket, UdpSocket) {
    let any = |host: &str| SocketAddr::new(host.parse().unwrap(), 0);
    (
        UdpSocket::bind(any(host), SocketOffload::FULL).unwrap(),
        UdpSocket::bind(any(host), SocketOffload::FULL).unwrap(),
    )
}

fn put(batch: &mut SendBatch, to: &UdpSocket, from: IpAddr, bytes: &[u8]) {
    let mut slot = batch.reserve(to.local(), from, 0, bytes.len()).unwrap();
    slot.bytes().copy_from_slice(bytes);
    slot.commit(bytes.len());
}

fn receive_all(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, IpAddr, Vec<u8>)> {
    let waiter = Waiter::new().unwrap();
    waiter.watch(Socket::as_fd(socket), 0).unwrap();
    let mut batch = RecvBatch::new();
    let mut all = Vec::new();
    while all.len() < count {
        let ready = waiter
            .wait(Some(std::time::Duration::from_secs(5)))
            .unwrap();
        assert!(
            !ready.tokens().is_empty(),
            "{} of {count} arrived",
            all.len()
        );
        socket.recv(&mut batch).unwrap();
        for mut datagram in batch.iter_mut() {
            let ends = (datagram.remote, datagram.local);
            let segments = datagram.segments();
            all.extend(segments.map(|bytes| (ends.0, ends.1, bytes.to_vec())));
        }
    }
    all
}

#[test]
fn datagrams_arrive_in_order_with_their_addresses() {
    let (a, b) = pair("127.0.0.1");
    let mut batch = SendBatch::new();
    let packets: Vec<Vec<u8>> = (0..100_u8)
        .map(|n| vec![n; if n == 99 { 3 } else { 1400 }])
        .collect();
    packets
        .iter()
        .for_each(|p| put(&mut batch, &b, a.local().ip(), p));
    assert_eq!(a.send(&batch).unwrap(), 100);
    let arrived = receive_all(&b, 100);
    let ends = |remote, local| remote == a.local() && local == b.local().ip();
    assert!(
        arrived
            .iter()
            .all(|(remote, local, _)| ends(*remote, *local))
    );
    assert!(arrived.iter().map(|(.., bytes)| bytes).eq(&packets));
}

#[test]
fn a_socket_on_an_unspecified_address_reports_and_sets_local_addresses() {
    let any = UdpSocket::bind("0.0.0.0:0".parse().unwrap(), SocketOffload::FULL).unwrap();
    let (peer, _) = pair("127.0.0.1");
    let to_any = SocketAddr::new("127.0.0.3".parse().unwrap(), any.local().port());
    let mut batch = SendBatch::new();
    batch
        .reserve(to_any, peer.local().ip(), 0, 1)
        .unwrap()
        .commit(1);
    peer.send(&batch).unwrap();
    let (_, local, _) = receive_all(&any, 1).remove(0);
    assert_eq!(local, to_any.ip());

    let mut answer = SendBatch::new();
    put(&mut answer, &peer, local, b"from 127.0.0.3");
    any.send(&answer).unwrap();
    assert_eq!(receive_all(&peer, 1)[0].0, to_any);
}

fn equal_datagrams(
    to: &UdpSocket,
    from: &UdpSocket,
    lengths: &[usize],
) -> (SendBatch, Vec<Vec<u8>>) {
    let mut batch = SendBatch::new();
    let packets = lengths.iter().zip(0..).map(|(len, fill)| vec![fill; *len]);
    let packets: Vec<_> = packets.collect();
    packets
        .iter()
        .for_each(|p| put(&mut batch, to, from.local().ip(), p));
    (batch, packets)
}

#[test]
fn equal_datagrams_are_sent_with_gso_and_received_with_gro() {
    for host in ["127.0.0.1", "::1"] {
        let (a, b) = pair(host);
        for lengths in [
            &[1400; 46][..],
            &[1400, 1400, 3],
            &[1; 64],
            &[32_000, 32_000],
        ] {
            let (batch, packets) = equal_datagrams(&b, &a, lengths);
            assert_eq!(a.send(&batch).unwrap(), lengths.len());
            let mut received = RecvBatch::new();
            assert_eq!(b.recv(&mut received).unwrap(), 1, "{host} {lengths:?}");
            let mut datagram = received.iter_mut().next().unwrap();
            assert_eq!((datagram.remote, datagram.segment), (a.local(), lengths[0]));
            assert!(datagram.segments().eq(&packets), "{host} {lengths:?}");
        }
        assert_eq!(
            (a.offload(), b.offload()),
            (SocketOffload::FULL, SocketOffload::FULL)
        );
    }
}

#[test]
fn joined_and_single_datagrams_keep_order_and_traffic_class() {
    let (a, b) = pair("127.0.0.1");
    let mut batch = SendBatch::new();
    let mut expected = Vec::new();
    for n in 0..100_u8 {
        let (class, len) = (n / 40 * 4, if n % 7 == 0 { 50 } else { 100 });
        let slot = batch.reserve(b.local(), a.local().ip(), class, len);
        let mut slot = slot.unwrap();
        slot.bytes().fill(n);
        slot.commit(len);
        expected.push((class, vec![n; len]));
    }
    while !batch.is_empty() {
        let sent = a.send(&batch).unwrap();
        batch.advance(sent);
    }
    let (mut received, mut all) = (RecvBatch::new(), Vec::new());
    while b.recv(&mut received).is_ok() {
        for mut datagram in received.iter_mut() {
            let class = datagram.class;
            all.extend(datagram.segments().map(|bytes| (class, bytes.to_vec())));
        }
    }
    assert_eq!(all, expected);
}

#[test]
fn without_offload_every_datagram_is_single() {
    let bind = || UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SocketOffload::NONE).unwrap();
    let (a, b) = (bind(), bind());
    assert_eq!(a.offload(), SocketOffload::NONE);
    let (joining, _) = pair("127.0.0.1");
    for to in [&b, &joining] {
        let (batch, packets) = equal_datagrams(to, &a, &[1000; 20]);
        assert_eq!(a.send(&batch).unwrap(), 20);
        let mut received = RecvBatch::new();
        assert_eq!(to.recv(&mut received).unwrap(), 20);
        assert!(received.iter_mut().map(|d| d.bytes.to_vec()).eq(packets));
    }
    let (batch, packets) = equal_datagrams(&b, &joining, &[1000; 20]);
    assert_eq!(joining.send(&batch).unwrap(), 20, "one GSO send");
    let mut received = RecvBatch::new();
    assert_eq!(
        b.recv(&mut received).unwrap(),
        20,
        "segmented by the kernel"
    );
    assert!(received.iter_mut().map(|d| d.bytes.to_vec()).eq(packets));
}

#[test]
fn a_rejected_gso_send_is_repeated_packet_by_packet() {
    let (a, b) = pair("127.0.0.1");
    // The kernel rejects GSO without checksums (EINVAL).
    sockopt::set_int(&a.socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let (first, mut expected) = equal_datagrams(&b, &a, &[1400; 20]);
    assert_eq!(a.send(&first).unwrap(), 20);
    assert_eq!(
        a.offload().send,
        SendOffload::Short,
        "the length may be the reason"
    );
    let (mut second, packets) = equal_datagrams(&b, &a, &[1000, 100, 500, 500, 500]);
    expected.extend(packets);
    while !second.is_empty() {
        let sent = a.send(&second).unwrap();
        second.advance(sent);
    }
    assert_eq!(a.offload().send, SendOffload::Single);
    let arrived = receive_all(&b, expected.len());
    assert!(arrived.into_iter().map(|(.., bytes)| bytes).eq(expected));
}

#[test]
fn an_unsendable_gso_message_does_not_disable_gso() {
    let (a, b) = pair("127.0.0.1");
    let mut batch = SendBatch::new();
    for _ in 0..3 {
        put(&mut batch, &b, "192.0.2.77".parse().unwrap(), &[1; 100]);
    }
    for _ in 0..3 {
        assert!(a.send(&batch).is_err());
        batch.advance(1);
    }
    assert_eq!(a.offload(), SocketOffload::FULL);
}

#[test]
fn the_traffic_class_travels_with_the_datagram() {
    for host in ["127.0.0.1", "::1"] {
        let (a, b) = pair(host);
        let mut batch = SendBatch::new();
        for class in [0, 0xb8, 0xbb, 0xff] {
            let slot = batch.reserve(b.local(), a.local().ip(), class, 100);
            slot.unwrap().commit(100);
        }
        assert_eq!(a.send(&batch).unwrap(), 4);
        let mut classes = Vec::new();
        let mut received = RecvBatch::new();
        while b.recv(&mut received).is_ok() {
            classes.extend(received.iter_mut().map(|d| d.class));
        }
        assert_eq!(classes, [0, 0xb8, 0xbb, 0xff], "{host}");
    }
}

#[test]
fn a_datagram_of_maximum_size_arrives() {
    let (a, b) = pair("127.0.0.1");
    let large = vec![7; SendBatch::MAX_UDP_PAYLOAD];
    let mut batch = SendBatch::new();
    put(&mut batch, &b, a.local().ip(), &large);
    assert_eq!(a.send(&batch).unwrap(), 1);
    assert_eq!(receive_all(&b, 1)[0].2, large);
}

#[test]
fn an_empty_socket_is_would_block() {
    let (a, _) = pair("127.0.0.1");
    assert_eq!(
        a.recv(&mut RecvBatch::new()).unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
}

#[test]
fn e15_icmp_port_unreachable_is_ignored() {
    let (a, b) = pair("127.0.0.1");
    let (dead, _) = pair("127.0.0.1");
    // With this option the socket receives all ICMP errors.
    nix::sys::socket::setsockopt(&a.socket, option::Ipv4RecvErr, &true).unwrap();
    let mut to_nobody = SendBatch::new();
    put(&mut to_nobody, &dead, a.local().ip(), b"hello?");
    drop(dead);
    let mut to_b = SendBatch::new();
    put(&mut to_b, &b, a.local().ip(), b"hello");
    for _ in 0..3 {
        assert_eq!(a.send(&to_nobody).unwrap(), 1);
        assert_eq!(a.send(&to_b).unwrap(), 1);
        assert_eq!(
            a.recv(&mut RecvBatch::new()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
    assert_eq!(receive_all(&b, 3).len(), 3);
}

#[test]
fn an_unsendable_packet_does_not_affect_the_next() {
    let (a, b) = pair("127.0.0.1");
    let mut batch = SendBatch::new();
    put(
        &mut batch,
        &b,
        "192.0.2.77".parse().unwrap(),
        b"from an address that is not ours",
    );
    put(&mut batch, &b, a.local().ip(), b"fine");
    assert!(a.send(&batch).is_err());
    batch.advance(1);
    assert_eq!(a.send(&batch).unwrap(), 1);
    assert_eq!(receive_all(&b, 1)[0].2, b"fine");
}

#[test]
fn a_port_in_use_names_its_process() {
    let a = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), SocketOffload::FULL).unwrap();
    let error = UdpSocket::bind(a.local(), SocketOffload::FULL).unwrap_err();
    let BindError::PortInUse {
        port,
        holder: Some(holder),
        ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((*port, holder.pid), (a.local().port(), std::process::id()));
    assert!(
        error
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{error}"
    );
}

#[test]
fn an_address_of_no_interface_has_its_own_error() {
    let error =
        UdpSocket::bind("192.0.2.1:4500".parse().unwrap(), SocketOffload::FULL).unwrap_err();
    assert!(matches!(error, BindError::AddressNotHere { .. }), "{error}");
}
