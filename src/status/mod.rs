//! One snapshot of the gateway, many readers: `status`, the control socket, `lab --json`.

pub mod snapshot;

pub use snapshot::{
    Child, Counters, Ike, LastError, Nat, RekeyCheck, Rekeys, Role, Snapshot, State, Tunnel,
    Verdict, Waiting,
};
