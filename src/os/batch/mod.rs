//! Packet buffers. Each worker allocates its batches once and reuses them; filling a batch clears it.

mod read;
mod recv;
mod send;

pub use read::{InnerPacket, ReadBatch};
pub use recv::{Datagram, RecvBatch};
pub use send::{Message, SendBatch, Slot};
