//! Clamping the TCP maximum segment size, so that both ends send segments that fit the tunnel (RFC 4459 §3.2).

/// Lowers the MSS option of a TCP SYN to `max_v4` or `max_v6`; says whether it did. The checksum is kept right incrementally and
/// so must be complete beforehand ([`checksum::complete`](super::checksum::complete)). A packet that does not hold together is left alone.
pub fn clamp_mss(packet: &mut [u8], max_v4: u16, max_v6: u16) -> bool {
    todo!()
}
