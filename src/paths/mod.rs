//! Which devices carry which prefixes: from how the tunnels are doing to the routes the kernel should have. Pure.
//!
//! ```text
//!   10.8.0.0/16  a up, metric 100 ─┐
//!                b up, metric 100 ─┴─▶ one route, metric 100, over a and b
//!                c up, metric 200 ───▶ one route, metric 200, over c: the standby
//!                any fail-closed  ───▶ unreachable, behind all others
//!   a peer inside a prefix above  ───▶ pinned: the way to it stays where it is
//! ```

mod plan;

pub use plan::{Carries, FailClosed, Plan, Route, Target, Tunnel, plan};
