//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Completes a transport checksum that the kernel left to the hardware (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): sums from `start` to the
/// end of the packet, where the field `offset` octets behind `start` already holds the pseudo-header's sum, and writes the result
/// there. False, and nothing written, if the two lie outside the packet.
#[must_use]
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> bool {
    todo!()
}
