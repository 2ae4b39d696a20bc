//! Decapsulated packets on their way into a device, joined where they follow each other. The mirror image is
//! [`departures`](super::tx_batch).

use std::io;
use std::sync::Arc;

use super::profile::{ProfileStep, StepTimer};
use super::tables::TunnelShared;
use crate::net::segment::{
    Coalesced, Coalescer, GsoPacket, PacketOffload, UdpCoalescing, segments,
};
use crate::net::{DropReason, Packet};
use crate::os::{GsoSupport, OutPacket};

/// Packets for one tunnel's device at a time.
pub(super) struct TunWriter<'t> {
    lane: Option<&'t Arc<TunnelShared>>,
    /// What the device takes.
    trains: GsoSupport,
    joiner: &'t mut Coalescer,
    pub(super) watch: &'t mut StepTimer,
}

impl<'t> TunWriter<'t> {
    /// None yet; `joiner` holds those that wait for others.
    pub(super) fn new(joiner: &'t mut Coalescer, watch: &'t mut StepTimer) -> TunWriter<'t> {
        // What a batch that ended in the middle has left belongs to nobody.
        joiner.flush(&mut |_| {});
        TunWriter {
            lane: None,
            trains: GsoSupport::None,
            joiner,
            watch,
        }
    }

    /// One more; those for another tunnel are written first.
    pub(super) fn push(&mut self, lane: &'t Arc<TunnelShared>, packet: &Packet<'_>) {
        if self.lane.is_none_or(|before| !Arc::ptr_eq(before, lane)) {
            self.flush();
            self.lane = Some(lane);
            self.trains = lane.device.gso_support();
        }
        let udp = match self.trains {
            GsoSupport::None => {
                return write(lane, Coalesced::alone(packet), &mut self.trains, self.watch);
            }
            GsoSupport::Tcp => UdpCoalescing::Apart,
            GsoSupport::TcpAndUdp => UdpCoalescing::Coalesced,
        };
        let TunWriter {
            joiner,
            trains,
            watch,
            ..
        } = self;
        let out = &mut |joined: Coalesced<'_>| write(lane, joined, trains, watch);
        joiner.push(packet, udp, out);
    }

    /// Writes all that still wait.
    pub(super) fn flush(&mut self) {
        if let Some(lane) = self.lane.take() {
            let TunWriter {
                joiner,
                trains,
                watch,
                ..
            } = self;
            joiner.flush(&mut |joined| write(lane, joined, trains, watch));
        }
    }
}

/// Writes a packet or a train. What the device does not take is lost, as in any router; `trains` is what it gets from then on.
fn write(
    lane: &TunnelShared,
    joined: Coalesced<'_>,
    trains: &mut GsoSupport,
    watch: &mut StepTimer,
) {
    let out = OutPacket {
        vnet: joined.offload.into(),
        bytes: joined.bytes,
    };
    let (packets, octets) = (joined.packets as u64, joined.octets as u64);
    watch.lap(ProfileStep::Join);
    let written = lane.device.write(&[out]);
    watch.lap(ProfileStep::Write);
    let refused = match written {
        Ok(1..) => return lane.counters.rx.add(packets, octets),
        Ok(0) => DropReason::DeviceFull,
        Err(error) => match (error.kind(), joined.offload) {
            (io::ErrorKind::WouldBlock, _) => DropReason::DeviceFull,
            (io::ErrorKind::InvalidInput, PacketOffload::Gso(train)) => {
                lane.device.disable_gso(train.kind);
                // To the end of the batch not less than TCP: what is not joined at all would overtake what waits to be.
                *trains = lane.device.gso_support().max(GsoSupport::Tcp);
                return apart(lane, joined.bytes, &train, trains, watch);
            }
            (_, PacketOffload::Gso(_) | PacketOffload::Checksum(_) | PacketOffload::None) => {
                DropReason::SendFailed
            }
        },
    };
    lane.counters.refused.add(refused, packets);
}

/// Writes a train's packets one by one. This happens once or twice in a device's life, so it may allocate.
#[cold]
fn apart(
    lane: &TunnelShared,
    bytes: &[u8],
    train: &GsoPacket,
    trains: &mut GsoSupport,
    watch: &mut StepTimer,
) {
    let written = Packet::parse(bytes).and_then(|packet| {
        for segment in segments(&packet, train)? {
            let mut room = vec![0; segment.len()];
            if segment.write(&mut room) {
                write(
                    lane,
                    Coalesced::alone(&Packet::parse(&room)?),
                    trains,
                    watch,
                );
            }
        }
        Ok(())
    });
    if let Err(reason) = written {
        lane.counters.refused.add(reason, 1);
    }
}
