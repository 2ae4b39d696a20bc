//! What each stage of a packet's road costs: the sealing half at gateway A, the opening half at gateway B.

use std::fmt;

use serde::Serialize;

use crate::status::Snapshot;

/// Ticks of the time stamp counter for each byte of TCP payload that one stream carried from A to B.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepCosts {
    /// Out of A's device.
    pub read: f64,
    /// Checks, and cutting into what fits.
    pub split: f64,
    /// Encryption and ICV.
    pub seal: f64,
    /// Into A's socket.
    pub send: f64,
    /// Out of B's socket.
    pub receive: f64,
    /// ICV, replay window, decryption, selectors.
    pub open: f64,
    /// Finding the SA, the last checks, and joining what belongs together.
    pub join: f64,
    /// Into B's device.
    pub write: f64,
}

impl StepCosts {
    /// What A and B have spent between two looks at both, while so many bytes went from A to B. `None` where nothing counts ticks.
    pub(super) fn between(
        before: &[Snapshot; 2],
        after: &[Snapshot; 2],
        bytes: u64,
    ) -> Option<StepCosts> {
        let spent = |side: usize, stage: &str| {
            let at = |looks: &[Snapshot; 2]| looks.get(side)?.ticks.get(stage).copied();
            let ticks = at(after)?.checked_sub(at(before)?)?;
            (ticks > 0 && bytes > 0).then_some(ticks as f64 / bytes as f64)
        };
        let (a, b) = (|stage| spent(0, stage), |stage| spent(1, stage));
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
}

impl StepCosts {
    /// As a byte passes them, those of A first.
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
        let side = |stages: &[(&str, f64)]| {
            let stages = stages.iter();
            let said: Vec<String> = stages
                .map(|(name, ticks)| format!("{name} {ticks:.2}"))
                .collect();
            said.join(" · ")
        };
        write!(f, "A {}    B {}", side(a), side(b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(ticks: &[(&str, u64)]) -> Snapshot {
        Snapshot {
            version: String::new(),
            uptime_s: 0.0,
            tunnels: Vec::new(),
            groups: Vec::new(),
            ike_refused: Default::default(),
            offload: None,
            ticks: ticks
                .iter()
                .map(|(stage, ticks)| ((*stage).to_owned(), *ticks))
                .collect(),
        }
    }

    #[test]
    fn the_sealing_half_counts_at_a_and_the_opening_half_at_b() {
        let names = [
            "read", "split", "seal", "send", "receive", "open", "join", "write",
        ];
        let all = |from: u64| look(&names.map(|name| (name, from)));
        let counted = |base: u64| {
            let ticks: Vec<_> = names.into_iter().zip((base..).step_by(1000)).collect();
            look(&ticks)
        };
        let before = [all(0), all(0)];
        let after = [counted(1000), counted(2000)];
        let stages = StepCosts::between(&before, &after, 1000).unwrap();
        assert_eq!((stages.read, stages.send), (1.0, 4.0));
        assert_eq!((stages.receive, stages.write), (6.0, 9.0));
        assert!(
            stages
                .to_string()
                .starts_with("A read 1.00 · split 2.00 · seal 3.00 · send 4.00")
        );
    }

    #[test]
    fn without_a_counter_there_is_nothing_to_say() {
        let none = || [look(&[]), look(&[])];
        assert_eq!(StepCosts::between(&none(), &none(), 1000), None);
    }
}
