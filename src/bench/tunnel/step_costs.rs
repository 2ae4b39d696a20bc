//! The cost of each datapath step: egress steps at gateway A, ingress steps at gateway B.

use std::fmt;

use serde::Serialize;

use crate::status::Snapshot;

/// Ticks of the time stamp counter per byte of TCP payload from A to B.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepCosts {
    /// Read from A's TUN device.
    pub read: f64,
    /// Checks, and splitting of GSO packets.
    pub split: f64,
    /// Encryption and ICV.
    pub seal: f64,
    /// Send to A's socket.
    pub send: f64,
    /// Receive from B's socket.
    pub receive: f64,
    /// ICV, replay window, decryption, selectors.
    pub open: f64,
    /// SA lookup, last checks, and coalescing.
    pub join: f64,
    /// Write to B's TUN device.
    pub write: f64,
}

impl StepCosts {
    /// The costs between two samples of both gateways, during which `bytes` were transferred from A to B. `None` without a time stamp
    /// counter.
    pub(super) fn between(
        before: &[Snapshot; 2],
        after: &[Snapshot; 2],
        bytes: u64,
    ) -> Option<StepCosts> {
        let spent = |side: usize, step: &str| {
            let at = |samples: &[Snapshot; 2]| samples.get(side)?.ticks.get(step).copied();
            let ticks = at(after)?.checked_sub(at(before)?)?;
            (ticks > 0 && bytes > 0).then_some(ticks as f64 / bytes as f64)
        };
        let (a, b) = (|step| spent(0, step), |step| spent(1, step));
        Some(StepCosts {
            read: a("read")?,
            split: a("split")?,
            seal: a("seal")?,
            send: a("send")?,
            receive: b("receive")?,
            open: b("open")?,
            join: b("join")?,
            write: b("write")?,
        })
    }

    /// Names and costs in packet order, those of A first.
    pub(super) fn in_order(&self) -> [(&'static str, f64); 8] {
        let StepCosts {
            read,
            split,
            seal,
            send,
            receive,
            open,
            join,
            write,
        } = *self;
        [
            ("read", read),
            ("split", split),
            ("seal", seal),
            ("send", send),
            ("receive", receive),
            ("open", open),
            ("join", join),
            ("write", write),
        ]
    }
}

impl fmt::Display for StepCosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.in_order();
        let (a, b) = all.split_at(4);
        let side = |steps: &[(&str, f64)]| {
            let steps = steps.iter();
            let texts: Vec<String> = steps
                .map(|(name, ticks)| format!("{name} {ticks:.2}"))
                .collect();
            texts.join(" · ")
        };
        write!(f, "A {}    B {}", side(a), side(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ticks: &[(&str, u64)]) -> Snapshot {
        Snapshot {
            version: String::new(),
            uptime_s: 0.0,
            tunnels: Vec::new(),
            groups: Vec::new(),
            ike_refused: Default::default(),
            unmatched: Default::default(),
            offload: None,
            ticks: ticks
                .iter()
                .map(|(step, ticks)| ((*step).to_owned(), *ticks))
                .collect(),
        }
    }

    #[test]
    fn egress_steps_count_at_a_and_ingress_steps_at_b() {
        let names = [
            "read", "split", "seal", "send", "receive", "open", "join", "write",
        ];
        let all = |from: u64| sample(&names.map(|name| (name, from)));
        let counted = |base: u64| {
            let ticks: Vec<_> = names.into_iter().zip((base..).step_by(1000)).collect();
            sample(&ticks)
        };
        let before = [all(0), all(0)];
        let after = [counted(1000), counted(2000)];
        let costs = StepCosts::between(&before, &after, 1000).unwrap();
        assert_eq!((costs.read, costs.send), (1.0, 4.0));
        assert_eq!((costs.receive, costs.write), (6.0, 9.0));
        assert!(
            costs
                .to_string()
                .starts_with("A read 1.00 · split 2.00 · seal 3.00 · send 4.00")
        );
    }

    #[test]
    fn there_are_no_costs_without_a_counter() {
        let none = || [sample(&[]), sample(&[])];
        assert_eq!(StepCosts::between(&none(), &none(), 1000), None);
    }
}
