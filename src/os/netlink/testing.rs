//! A kernel for tests: answers dumps, and marks them as interrupted as often as a test wants.

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread::JoinHandle;

use netlink_packet_core::{
    DoneMessage, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

use super::Netlink;

/// Connection to a kernel that marks its first `dumps` answers as interrupted. The thread ends with the connection.
pub(crate) fn interrupted_dumps(dumps: usize) -> (Netlink, JoinHandle<()>) {
    let (netlink, kernel) = connection();
    let thread = std::thread::spawn(move || serve_dumps(&kernel, dumps));
    (netlink, thread)
}

/// A connection whose other end is the test instead of the kernel.
pub(super) fn connection() -> (Netlink, OwnedFd) {
    let kind = SockType::SeqPacket;
    let (ours, kernel) = socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).unwrap();
    let netlink = Netlink {
        socket: ours,
        sequence: 0,
        buffer: vec![0; 4096],
    };
    (netlink, kernel)
}

fn answer(sequence: u32, flags: u16, payload: NetlinkPayload<RouteNetlinkMessage>) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags | NLM_F_MULTIPART;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Answers each dump with one link; the first `interrupted` of them with `NLM_F_DUMP_INTR`.
pub(super) fn serve_dumps(kernel: &OwnedFd, interrupted: usize) {
    let fd = kernel.as_raw_fd();
    let mut served = 0;
    loop {
        let mut request = [0; 4096];
        let len = recv(fd, &mut request, MsgFlags::empty()).unwrap();
        if len == 0 {
            return;
        }
        let sequence = NetlinkBuffer::new(&request[..len]).sequence_number();
        let flags = if served < interrupted {
            NLM_F_DUMP_INTR
        } else {
            0
        };
        served += 1;
        let mut link = LinkMessage::default();
        link.header.index = u32::try_from(served).unwrap();
        let link = NetlinkPayload::from(RouteNetlinkMessage::NewLink(link));
        let done = NetlinkPayload::Done(DoneMessage::default());
        for bytes in [answer(sequence, flags, link), answer(sequence, 0, done)] {
            send(fd, &bytes, MsgFlags::empty()).unwrap();
        }
    }
}
