//! Tunnel handles.

/// A tunnel's handle: allocated when the tunnel is added, never reused while the process runs, and unrelated to the tunnel's place in the
/// configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelId(pub u32);
