//! Control messages (ancillary data) of datagrams.
//!
//! ```text
//!   │ cmsghdr: length, level, type │ value │pad│ cmsghdr │ value │pad│ …
//!     IP_PKTINFO, IPV6_PKTINFO       local address
//!     IP_TOS, IPV6_TCLASS            DSCP and ECN of the outer header
//!     UDP_SEGMENT, UDP_GRO           length of datagrams sent or received as one
//! ```

#![allow(
    unsafe_code,
    reason = "control messages are C structures in raw memory"
)]

use std::net::IpAddr;

use super::super::Message;

/// Buffer for the control messages of one datagram, with the alignment of `cmsghdr`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(super) struct ControlBuf([u8; ControlBuf::LEN]);

/// The buffer holds all requested and all sent control messages. Otherwise joined datagrams could arrive without their segment
/// length.
const _: () = {
    let address = size_of::<libc::in6_pktinfo>() as libc::c_uint;
    let number = size_of::<libc::c_int>() as libc::c_uint;
    // SAFETY: these only compute sizes.
    let wanted = unsafe { libc::CMSG_SPACE(address) + 2 * libc::CMSG_SPACE(number) };
    assert!(wanted as usize <= ControlBuf::LEN);
};

impl ControlBuf {
    /// Local address (40 octets for IPv6), traffic class (24), segment length (24), and a reserve.
    const LEN: usize = 96;

    pub(super) const EMPTY: ControlBuf = ControlBuf([0; ControlBuf::LEN]);

    /// Sets this as the control buffer of a header, for receiving.
    pub(super) fn offer(&mut self, header: &mut libc::msghdr) {
        header.msg_control = self.0.as_mut_ptr().cast();
        header.msg_controllen = self.0.len();
    }

    /// Sets this as the control buffer of a header, with the source address, traffic class and GSO segment length of a message.
    pub(super) fn describe(&mut self, message: &Message<'_>, header: &mut libc::msghdr) {
        self.offer(header);
        header.msg_controllen = self.write(message);
    }

    /// Writes the control messages and returns their length; 0 leaves everything to the kernel.
    fn write(&mut self, message: &Message<'_>) -> usize {
        let class = libc::c_int::from(message.class);
        let mut used = 0;
        match message.local {
            IpAddr::V4(v4) if !v4.is_unspecified() => {
                // SAFETY: a C structure of integers, for which zero is a value.
                let mut info: libc::in_pktinfo = unsafe { std::mem::zeroed() };
                info.ipi_spec_dst.s_addr = u32::from_ne_bytes(v4.octets());
                used = self.append(used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            IpAddr::V6(v6) if !v6.is_unspecified() => {
                // SAFETY: as above.
                let mut info: libc::in6_pktinfo = unsafe { std::mem::zeroed() };
                info.ipi6_addr.s6_addr = v6.octets();
                used = self.append(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        if class != 0 {
            used = match message.remote {
                std::net::SocketAddr::V4(_) => {
                    self.append(used, libc::IPPROTO_IP, libc::IP_TOS, class)
                }
                std::net::SocketAddr::V6(_) => {
                    self.append(used, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class)
                }
            };
        }
        if message.bytes.len() > message.segment {
            // Segments are no longer than a UDP payload.
            let segment = u16::try_from(message.segment).unwrap_or(u16::MAX);
            used = self.append(used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        used
    }

    /// Appends one control message with a C structure as its value and returns the offset of the next. A message without space is
    /// omitted.
    fn append<T: Copy>(
        &mut self,
        used: usize,
        level: libc::c_int,
        kind: libc::c_int,
        value: T,
    ) -> usize {
        let size = size_of::<T>() as libc::c_uint;
        // SAFETY: these only compute sizes.
        let (len, space) = unsafe { (libc::CMSG_LEN(size), libc::CMSG_SPACE(size)) };
        let end = used + space as usize;
        let Some(slot) = self.0.get_mut(used..end) else {
            debug_assert!(false, "the block holds every message there is");
            return used;
        };
        let header = slot.as_mut_ptr().cast::<libc::cmsghdr>();
        // SAFETY: the block and every CMSG_SPACE are multiples of the alignment of a header, and `slot` has room for header and value.
        unsafe {
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = len as usize;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        end
    }
}

/// Control data of a received datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RecvMeta {
    /// Local address.
    pub(super) local: Option<IpAddr>,
    /// TOS or traffic class.
    pub(super) class: u8,
    /// Length of datagrams joined by GRO; 0 for a single datagram.
    pub(super) segment: usize,
}

/// Reads the control messages of a header filled by `recvmsg` or `recvmmsg`.
///
/// # Safety
/// The kernel filled the header, and its control buffer is alive.
pub(super) unsafe fn read(header: &libc::msghdr) -> RecvMeta {
    let mut meta = RecvMeta::default();
    // SAFETY: by the caller's promise; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside the block.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: not null, so it points at a whole, aligned header inside the block.
    while let Some(control) = unsafe { next.as_ref() } {
        // SAFETY: CMSG_DATA of a valid header; behind it the kernel has written the value that level and type name.
        unsafe {
            let data = libc::CMSG_DATA(control);
            match (control.cmsg_level, control.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    meta.local = Some(IpAddr::from(info.ipi_addr.s_addr.to_ne_bytes()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    meta.local = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                }
                // IP_TOS is one octet, IPV6_TCLASS an int.
                (libc::IPPROTO_IP, libc::IP_TOS) => meta.class = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    let class = data.cast::<libc::c_int>().read_unaligned();
                    meta.class = u8::try_from(class).unwrap_or(0);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let segment = data.cast::<libc::c_int>().read_unaligned();
                    meta.segment = usize::try_from(segment).unwrap_or(0);
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, control);
        }
    }
    meta
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(message: &Message<'_>) -> RecvMeta {
        let mut control = ControlBuf::EMPTY;
        // SAFETY: a C structure of integers and pointers, for which zero is a value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        control.describe(message, &mut header);
        // SAFETY: the block was written by the code under test as the kernel would, and lives.
        unsafe { read(&header) }
    }

    #[test]
    fn control_messages_round_trip() {
        for (remote, local, class) in [
            ("192.0.2.1:4500", "0.0.0.0", 0),
            ("192.0.2.1:4500", "0.0.0.0", 0xb8),
            ("[2001:db8::1]:4500", "2001:db8::2", 0xff),
            ("[2001:db8::1]:4500", "::", 0),
        ] {
            let local: IpAddr = local.parse().unwrap();
            let message = Message {
                remote: remote.parse().unwrap(),
                local,
                class,
                segment: 4,
                bytes: &[0; 4],
            };
            let meta = described(&message);
            assert_eq!(meta.class, class, "{message:?}");
            assert_eq!(meta.local, Some(local).filter(|a| !a.is_unspecified()));
        }
    }
}
