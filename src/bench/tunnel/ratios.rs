//! groundlink against another system in the same run.

use std::collections::BTreeMap;

use serde::Serialize;

use super::report::SystemRun;
use super::udp_rate::MIXES;

/// Ours divided by theirs, for one suite; `null` where one of the two was not measured. Above one is better for speeds, below one
/// for the rest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SpeedRatios {
    /// The ESP proposals.
    pub esp: String,
    /// Speed of one TCP stream.
    pub tcp_one_stream: Option<f64>,
    /// Speed of four.
    pub tcp_four_streams: Option<f64>,
    /// Packets a second, by the name of the mix.
    pub udp: BTreeMap<&'static str, Option<f64>>,
    /// Packets a second that gateway B takes in by itself.
    pub ingress: Option<f64>,
    /// Mean round trip.
    pub rtt: Option<f64>,
    /// CPU seconds for a gigabit.
    pub cpu: Option<f64>,
    /// Resident memory of the larger gateway.
    pub memory: Option<f64>,
}

impl SpeedRatios {
    /// Of two runs with the same suite.
    pub(super) fn of(ours: &SystemRun, theirs: &SystemRun) -> SpeedRatios {
        let pps = |run: &SystemRun, name| run.udp.iter().find(|udp| udp.name == name)?.pps;
        let udp = ours.udp.iter().map(|udp| udp.name);
        SpeedRatios {
            esp: ours.esp.clone(),
            tcp_one_stream: ratio(ours.tcp.one_stream_mbit, theirs.tcp.one_stream_mbit),
            tcp_four_streams: ratio(ours.tcp.four_streams_mbit, theirs.tcp.four_streams_mbit),
            udp: udp
                .map(|name| (name, ratio(pps(ours, name), pps(theirs, name))))
                .collect(),
            ingress: ratio(
                ours.ingress.as_ref().and_then(|udp| udp.pps),
                theirs.ingress.as_ref().and_then(|udp| udp.pps),
            ),
            rtt: ratio(ours.rtt.avg_ms, theirs.rtt.avg_ms),
            cpu: ratio(
                ours.cpu.map(|cpu| cpu.total()),
                theirs.cpu.map(|cpu| cpu.total()),
            ),
            memory: ratio(ours.memory_mib.most(), theirs.memory_mib.most()),
        }
    }

    /// Row by row as the table has them: TCP, UDP, ingress, round trip, CPU, memory.
    pub(super) fn in_order(&self) -> Vec<Option<f64>> {
        let tcp = [self.tcp_one_stream, self.tcp_four_streams];
        let udp = MIXES.map(|mix| self.udp.get(mix.name).copied().flatten());
        let costs = [self.rtt, self.cpu, self.memory];
        tcp.into_iter()
            .chain(udp)
            .chain([self.ingress])
            .chain(costs)
            .collect()
    }
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    let (ours, theirs) = (ours?, theirs?);
    (theirs > 0.0).then(|| ours / theirs)
}

#[cfg(test)]
mod tests {
    use super::super::pair::System;
    use super::super::report::testing::run;
    use super::*;

    #[test]
    fn ratios_are_ours_over_theirs_and_missing_where_one_is() {
        let (ours, mut theirs) = (run(System::Groundlink, 10.0), run(System::Strongswan, 1.0));
        theirs.tcp.four_streams_mbit = None;
        let ratios = SpeedRatios::of(&ours, &theirs);
        assert_eq!(ratios.tcp_one_stream, Some(10.0));
        assert_eq!(ratios.tcp_four_streams, None);
        assert_eq!(ratios.udp["IMIX"], Some(10.0));
        assert!((ratios.cpu.unwrap() - 0.1).abs() < 1e-9);
        assert_eq!(ratio(Some(1.0), Some(0.0)), None);
    }
}
