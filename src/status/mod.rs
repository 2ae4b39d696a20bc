//! One snapshot of the gateway, many readers: `status`, the control socket, `lab --json`.

pub mod snapshot;

pub use snapshot::{
    Child, Counters, Encapsulation, Ike, LastError, Nat, Offload, Receiving, RekeyCheck, Rekeys,
    Role, Sending, Snapshot, State, SuperPackets, Tunnel, Verdict, Waiting,
};
