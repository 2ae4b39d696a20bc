//! The workers that serve the sockets, whatever addresses these are bound to.
//!
//! ```text
//!   worker 0   of every address: port 500, socket 0 of port 4500, native ESP
//!   worker 1   of every address: socket 1 of port 4500
//!   …          as many as the largest group of sockets on one port 4500
//! ```
//!
//! A gateway of a thousand addresses has as many of them, and as many buffers, as one with a single address.

use std::io;
use std::sync::Arc;

use super::ingress::{Ingress, SocketEntry, SocketTable};
use super::worker_thread::Worker;
use crate::os::poll::Waiter;

/// All of them. Dropping it ends the workers.
#[derive(Default)]
pub(super) struct SocketWorkers {
    members: Vec<WorkerHandle>,
}

struct WorkerHandle {
    waiter: Arc<Waiter>,
    doors: Arc<SocketTable>,
    _worker: Worker,
}

impl SocketWorkers {
    /// Has worker `number`, or a new one if there are fewer, serve one more socket; `work` makes what a new one does.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub(super) fn open(
        &mut self,
        number: usize,
        door: SocketEntry,
        work: impl FnOnce(Arc<SocketTable>) -> Ingress,
    ) -> io::Result<()> {
        let number = number.min(self.members.len());
        if number == self.members.len() {
            self.members.push(WorkerHandle::hire(number, work)?);
        }
        let member = self.members.get(number).ok_or(io::ErrorKind::NotFound)?;
        let mut doors = Vec::clone(&member.doors.load());
        let token = u32::try_from(doors.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let socket = Arc::clone(&door.socket);
        doors.push(door);
        member.doors.store(Arc::new(doors));
        member.waiter.watch(socket.as_fd(), token)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn workers(&self) -> usize {
        self.members.len()
    }
}

impl WorkerHandle {
    fn hire(
        number: usize,
        work: impl FnOnce(Arc<SocketTable>) -> Ingress,
    ) -> io::Result<WorkerHandle> {
        let (waiter, doors) = (Arc::new(Waiter::new()?), Arc::<SocketTable>::default());
        let work = work(Arc::clone(&doors));
        let worker = Worker::spawn(format!("ingress {number}"), Arc::clone(&waiter), work)?;
        Ok(WorkerHandle {
            waiter,
            doors,
            _worker: worker,
        })
    }
}
