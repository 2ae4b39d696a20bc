//! The buffers packets travel in. A batch is made once per worker and reused: filling it again forgets what it held.

mod read;
mod recv;
mod send;

pub use read::{InnerPacket, ReadBatch};
pub use recv::{Datagram, RecvBatch};
pub use send::{Message, SendBatch, Slot};
