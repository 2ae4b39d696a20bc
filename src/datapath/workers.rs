//! The workers that serve the tunnels' devices, and which of them serves which.
//!
//! ```text
//!   worker 0   device 0 · device 2 · device 4 …      one set of buffers each, however many tunnels there are
//!   worker 1   device 1 · device 3 · …
//! ```
//!
//! One worker alone reads from a tunnel's device and seals for its outbound SA, so its packets leave in the order they came. A
//! tunnel that is idle costs nothing but its place here. What it needs between two batches ([`TunnelEgress`]) lies under a lock that only
//! its worker takes, once a batch, except when the tunnel comes or goes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::egress::{EgressScratch, ReadOutcome, TunnelEgress};
use super::profile::StepTotals;
use super::tables::TunnelShared;
use super::worker_thread::{PollOutcome, Work, Worker};
use crate::net::Time;
use crate::os::poll::{Ready, Signal, Waiter};

/// The roads of one worker, by the token their devices are watched under.
type TunnelSlots = ArcSwap<BTreeMap<u32, Arc<TunnelSlot>>>;

/// A tunnel's place with its worker; empty once the tunnel has gone.
type TunnelSlot = Mutex<Option<TunnelEgress>>;

/// All of them. Dropping it ends the workers.
#[derive(Default)]
pub(super) struct WorkerPool {
    members: Vec<WorkerHandle>,
    /// Every tunnel gets a token of its own, so that a late wake-up never means another.
    next: u32,
    step_totals: Arc<StepTotals>,
}

struct WorkerHandle {
    waiter: Arc<Waiter>,
    roads: Arc<TunnelSlots>,
    _worker: Worker,
}

/// Which worker serves a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct TunnelPlace {
    member: usize,
    token: u32,
}

/// A worker may have this many; beyond, they would only share the sockets' locks.
const MOST: usize = 8;

impl WorkerPool {
    /// What its workers have spent, where.
    pub(super) fn step_totals(&self) -> &Arc<StepTotals> {
        &self.step_totals
    }

    /// Has a worker serve a tunnel: the one with the fewest, or a new one as long as there are cores for it. `lane` makes the
    /// tunnel's lane from what wakes that worker; `road` what it needs from there.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub(super) fn add(
        &mut self,
        lane: impl FnOnce(Signal) -> Arc<TunnelShared>,
        road: impl FnOnce(Arc<TunnelShared>) -> TunnelEgress,
    ) -> io::Result<(TunnelPlace, Arc<TunnelShared>)> {
        let cores = available_parallelism().map_or(1, |cores| cores.get().min(MOST));
        if self.members.len() < cores {
            self.members
                .push(WorkerHandle::hire(self.members.len(), &self.step_totals)?);
        }
        let load = |(_, member): &(usize, &WorkerHandle)| member.roads.load().len();
        let (index, member) = self
            .members
            .iter()
            .enumerate()
            .min_by_key(load)
            .ok_or(io::ErrorKind::NotFound)?;
        let place = TunnelPlace {
            member: index,
            token: self.next,
        };
        let lane = lane(member.waiter.waker());
        let post = Arc::new(Mutex::new(Some(road(Arc::clone(&lane)))));
        member.change(|roads| {
            roads.insert(place.token, post);
        });
        if let Err(error) = member.waiter.watch(lane.device.as_fd(), place.token) {
            self.remove(place);
            return Err(error);
        }
        self.next = self.next.wrapping_add(1);
        Ok((place, lane))
    }

    /// Ends the service of a tunnel: on return no worker holds anything of it.
    pub(super) fn remove(&self, place: TunnelPlace) {
        let Some(member) = self.members.get(place.member) else {
            return;
        };
        let mut gone = None;
        member.change(|roads| gone = roads.remove(&place.token));
        // The worker may be in the middle of a batch; after it the place is empty.
        let road = gone.and_then(|post| lock(&post).take());
        if let Some(road) = road {
            // Not watched while it was broken.
            let _ = member.waiter.forget(road.lane().device.as_fd());
        }
    }
}

impl WorkerHandle {
    fn hire(number: usize, step_totals: &Arc<StepTotals>) -> io::Result<WorkerHandle> {
        let (waiter, roads) = (Arc::new(Waiter::new()?), Arc::<TunnelSlots>::default());
        let work = Egress {
            waiter: Arc::clone(&waiter),
            roads: Arc::clone(&roads),
            buffers: EgressScratch::new(Arc::clone(step_totals)),
            alarms: BTreeMap::new(),
            visiting: None,
        };
        let worker = Worker::spawn(format!("egress {number}"), Arc::clone(&waiter), work)?;
        Ok(WorkerHandle {
            waiter,
            roads,
            _worker: worker,
        })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Arc<TunnelSlot>>)) {
        let mut roads = BTreeMap::clone(&self.roads.load());
        change(&mut roads);
        self.roads.store(Arc::new(roads));
    }
}

/// The worker of some tunnels' devices.
struct Egress {
    waiter: Arc<Waiter>,
    roads: Arc<TunnelSlots>,
    buffers: EgressScratch,
    /// Tunnels that have something to do even if nothing comes, or wait for the control plane.
    alarms: BTreeMap<u32, Alarm>,
    /// Whose batch it is at.
    visiting: Option<u32>,
}

/// What is to be done, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    /// Packets that wait have waited long enough, if their SA has not come before.
    Look(Time),
    /// The device could not be read or watched; it is tried again at that time, and was left alone for so long.
    Retry(Time, Duration),
}

impl Alarm {
    fn at(self) -> Time {
        match self {
            Alarm::Look(at) | Alarm::Retry(at, _) => at,
        }
    }

    /// A device that cannot be read is left alone, from one failure to the next for twice as long.
    #[cold]
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    fn retry(before: Option<Alarm>, now: Time) -> Alarm {
        let rest = match before {
            Some(Alarm::Retry(_, rest)) => rest.saturating_mul(2).min(LONGEST_REST),
            Some(Alarm::Look(_)) | None => REST,
        };
        Alarm::Retry(now + rest, rest)
    }
}

/// A device that cannot be read is left alone for so long at first.
const REST: Duration = Duration::from_millis(50);

/// And for so long at most: one that has been removed costs a call a second.
const LONGEST_REST: Duration = Duration::from_secs(1);

impl Work for Egress {
    fn turn(&mut self, ready: &Ready, now: Time) -> PollOutcome {
        let mut turn = PollOutcome::Done;
        for token in ready.tokens() {
            if self.visit(*token, now) == ReadOutcome::More {
                turn = PollOutcome::More;
            }
        }
        // Looked at also without a packet: an SA may have come, or time have passed.
        let due = |alarm: &Alarm| match alarm {
            Alarm::Look(at) => ready.woken || *at <= now,
            Alarm::Retry(at, _) => *at <= now,
        };
        let alarms = self.alarms.iter().filter(|(_, alarm)| due(alarm));
        let due: Vec<u32> = alarms.map(|(token, _)| *token).collect();
        for token in due {
            self.visit(token, now);
        }
        turn
    }

    fn wake_at(&self) -> Option<Time> {
        self.alarms.values().map(|alarm| alarm.at()).min()
    }

    fn on_panic(&mut self, now: Time) {
        // Packets may wait in a tunnel without a time for it having been set, and the wake-up was for all that wait.
        if let Some(token) = self.visiting.take() {
            self.alarms.entry(token).or_insert(Alarm::Look(now));
        }
        for alarm in self.alarms.values_mut() {
            if let Alarm::Look(at) = alarm {
                *at = now;
            }
        }
    }
}

impl Egress {
    /// Takes one batch from a tunnel's device. Its alarm stays until it is known what comes next: a batch may panic.
    fn visit(&mut self, token: u32, now: Time) -> ReadOutcome {
        let post = self.roads.load().get(&token).cloned();
        let Some(post) = post else {
            self.alarms.remove(&token);
            return ReadOutcome::Done;
        };
        let mut road = lock(&post);
        let Some(road) = road.as_mut() else {
            self.alarms.remove(&token);
            return ReadOutcome::Done;
        };
        self.visiting = Some(token);
        let before = self.alarms.get(&token).copied();
        let watched = match before {
            Some(Alarm::Retry(..)) => watch_again(&self.waiter, road, token),
            Some(Alarm::Look(_)) | None => Ok(()),
        };
        let reading = road.batch(&mut self.buffers, now);
        let alarm = match (reading, watched) {
            (ReadOutcome::More | ReadOutcome::Done, Ok(())) => road.wake_at().map(Alarm::Look),
            (ReadOutcome::More | ReadOutcome::Done, Err(_)) => {
                road.count_failure();
                Some(Alarm::retry(before, now))
            }
            (ReadOutcome::Failed, _) => {
                // Or it would be ready for ever.
                let _ = self.waiter.forget(road.lane().device.as_fd());
                road.count_failure();
                Some(Alarm::retry(before, now))
            }
        };
        match alarm {
            Some(alarm) => self.alarms.insert(token, alarm),
            None => before.and_then(|_| self.alarms.remove(&token)),
        };
        self.visiting = None;
        reading
    }
}

/// Waits for a device again that was left alone. One that is waited for already is as good: its batch has panicked since.
#[cold]
fn watch_again(waiter: &Waiter, road: &TunnelEgress, token: u32) -> io::Result<()> {
    match waiter.watch(road.lane().device.as_fd(), token) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn lock(post: &TunnelSlot) -> MutexGuard<'_, Option<TunnelEgress>> {
    // Every batch starts afresh: one that has panicked leaves nothing half done behind.
    post.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::TunnelId;
    use super::super::counters::Counters;
    use super::super::notice::{self, Notice, NoticeSender, Notices};
    use super::super::tables::EgressState;
    use super::super::testing::{eventually, to_a};
    use super::*;
    use crate::esp::testing::{mirrored, policy};
    use crate::net::DropReason;
    use crate::os::memory::MemoryDevice;
    use std::fs::File;
    use std::io::ErrorKind;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::net::segment::GsoKind;
    use crate::os::{Device, GsoSupport, OutPacket, ReadBatch};

    struct Tunnel {
        device: Arc<MemoryDevice>,
        lane: Arc<TunnelShared>,
        place: TunnelPlace,
    }

    fn crew_of(count: u32) -> (WorkerPool, Vec<Tunnel>, Notices) {
        let (notices_tx, notices) = notice::channel(512).unwrap();
        let mut crew = WorkerPool::default();
        let tunnels = (0..count)
            .map(|id| add(&mut crew, id, &notices_tx))
            .collect();
        (crew, tunnels, notices)
    }

    /// A tunnel without an SA: each packet makes it ask for one.
    fn add(crew: &mut WorkerPool, id: u32, notices_tx: &NoticeSender) -> Tunnel {
        let device = Arc::new(MemoryDevice::new(10).unwrap());
        let lane = |waker| {
            Arc::new(TunnelShared {
                id: TunnelId(id),
                device: device.clone(),
                outlet: ArcSwap::from_pointee(EgressState::Trap(mirrored(policy()))),
                counters: Counters::default(),
                waker,
            })
        };
        let (place, lane) = crew
            .add(lane, |lane| TunnelEgress::new(lane, notices_tx))
            .unwrap();
        Tunnel {
            device,
            lane,
            place,
        }
    }

    fn to_a_packet() -> Vec<u8> {
        to_a(60)
    }

    #[test]
    fn forty_tunnels_share_as_many_workers_as_there_are_cores() {
        let (crew, tunnels, notices) = crew_of(40);
        let cores = available_parallelism().map_or(1, |cores| cores.get().min(MOST));
        let loads: Vec<usize> = crew
            .members
            .iter()
            .map(|member| member.roads.load().len())
            .collect();
        assert_eq!((loads.len(), loads.iter().sum::<usize>()), (cores, 40));
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
        for (id, tunnel) in (0..).zip(&tunnels) {
            assert!(tunnel.device.inject(&to_a_packet()));
            assert_eq!(eventually(|| notices.next()), Notice::Demand(TunnelId(id)));
        }
    }

    #[test]
    fn a_tunnel_that_is_removed_is_let_go_of_at_once_and_the_others_stay() {
        let (crew, mut tunnels, notices) = crew_of(6);
        for tunnel in tunnels.drain(..3) {
            assert!(tunnel.device.inject(&to_a_packet()));
            eventually(|| notices.next());
            crew.remove(tunnel.place);
            drop(tunnel.lane);
            assert_eq!(Arc::strong_count(&tunnel.device), 1);
            assert!(tunnel.device.inject(&to_a_packet()));
        }
        for tunnel in &tunnels {
            assert!(tunnel.device.inject(&to_a_packet()));
            assert_eq!(
                eventually(|| notices.next()),
                Notice::Demand(tunnel.lane.id)
            );
        }
    }

    #[test]
    fn a_device_that_cannot_be_read_is_tried_again_and_holds_up_nobody() {
        let (_crew, tunnels, notices) = crew_of(20);
        tunnels[0].device.fail_read(ErrorKind::NotConnected);
        assert_eq!(
            eventually(|| notices.next()),
            Notice::DeviceGone(TunnelId(0))
        );
        for tunnel in &tunnels[1..] {
            assert!(tunnel.device.inject(&to_a_packet()));
            assert_eq!(
                eventually(|| notices.next()),
                Notice::Demand(tunnel.lane.id)
            );
        }
        assert!(tunnels[0].device.inject(&to_a_packet()));
        assert_eq!(eventually(|| notices.next()), Notice::Demand(TunnelId(0)));
    }

    #[test]
    fn what_waits_is_let_go_when_its_tunnel_gives_up() {
        let (_crew, tunnels, notices) = crew_of(3);
        assert!(tunnels[1].device.inject(&to_a_packet()));
        eventually(|| notices.next());
        tunnels[1].lane.outlet.store(Arc::new(EgressState::Closed));
        tunnels[1].lane.waker.set();
        let refused = &tunnels[1].lane.counters.refused;
        eventually(|| (refused.count(DropReason::NoSa) == 1).then_some(()));
    }

    /// A device that panics when it is read, or cannot be waited for, as long as it is told to.
    struct Stubborn {
        inner: MemoryDevice,
        file: File,
        panics: AtomicBool,
        unwatchable: AtomicBool,
    }

    impl Device for Stubborn {
        fn read(&self, batch: &mut ReadBatch) -> io::Result<usize> {
            let read = self.inner.read(batch);
            assert!(
                !self.panics.load(Ordering::Relaxed),
                "a batch panics (this test wants it so)"
            );
            read
        }

        fn write(&self, packets: &[OutPacket<'_>]) -> io::Result<usize> {
            self.inner.write(packets)
        }

        fn gso_support(&self) -> GsoSupport {
            self.inner.gso_support()
        }

        fn disable_gso(&self, kind: GsoKind) {
            self.inner.disable_gso(kind);
        }

        fn as_fd(&self) -> BorrowedFd<'_> {
            // epoll takes no regular file.
            if self.unwatchable.load(Ordering::Relaxed) {
                self.file.as_fd()
            } else {
                self.inner.as_fd()
            }
        }
    }

    const NOW: Time = Time::from_secs(1000);
    const TOKEN: u32 = 5;

    /// A worker that is driven by the test, with one tunnel that waits for an SA.
    fn driven() -> (Egress, Arc<Stubborn>, Arc<TunnelShared>, Notices) {
        let (notices_tx, notices) = notice::channel(8).unwrap();
        let device = Arc::new(Stubborn {
            inner: MemoryDevice::new(10).unwrap(),
            file: File::open("/proc/self/exe").unwrap(),
            panics: AtomicBool::new(false),
            unwatchable: AtomicBool::new(false),
        });
        let waiter = Arc::new(Waiter::new().unwrap());
        let lane = Arc::new(TunnelShared {
            id: TunnelId(1),
            device: device.clone(),
            outlet: ArcSwap::from_pointee(EgressState::Trap(mirrored(policy()))),
            counters: Counters::default(),
            waker: waiter.waker(),
        });
        let post = Mutex::new(Some(TunnelEgress::new(Arc::clone(&lane), &notices_tx)));
        waiter.watch(device.as_fd(), TOKEN).unwrap();
        let egress = Egress {
            waiter,
            roads: Arc::new(ArcSwap::from_pointee(BTreeMap::from([(
                TOKEN,
                Arc::new(post),
            )]))),
            buffers: EgressScratch::new(Arc::default()),
            alarms: BTreeMap::new(),
            visiting: None,
        };
        (egress, device, lane, notices)
    }

    fn nothing_ready() -> Ready {
        Ready::of(&[])
    }

    /// Whether the device would wake its worker.
    fn is_watched(egress: &Egress, device: &Stubborn) -> bool {
        assert!(device.inner.inject(&to_a_packet()));
        let ready = egress.waiter.wait(Some(Duration::ZERO)).unwrap();
        let _ = device.inner.read(&mut ReadBatch::new());
        ready.tokens().contains(&TOKEN)
    }

    #[test]
    fn what_waits_is_looked_after_though_a_batch_panics() {
        let (mut egress, device, lane, _notices) = driven();
        assert!(device.inner.inject(&to_a_packet()));
        egress.turn(&Ready::of(&[TOKEN]), NOW);
        let until = egress.wake_at().expect("a packet waits");

        device.panics.store(true, Ordering::Relaxed);
        let stumbles = |egress: &mut Egress, ready: &Ready| {
            let turn = catch_unwind(AssertUnwindSafe(|| egress.turn(ready, NOW)));
            assert!(turn.is_err());
        };
        stumbles(&mut egress, &Ready::of(&[TOKEN]));
        assert_eq!(egress.wake_at(), Some(until), "its time stands");
        egress.on_panic(NOW);
        assert_eq!(egress.wake_at(), Some(NOW), "and it is looked at at once");

        // An SA that came meanwhile, or was given up, is seen.
        device.panics.store(false, Ordering::Relaxed);
        lane.outlet.store(Arc::new(EgressState::Closed));
        egress.turn(&nothing_ready(), NOW);
        assert_eq!(lane.counters.refused.count(DropReason::NoSa), 1);
        assert_eq!(egress.wake_at(), None);

        // Nor does one get lost that had no time yet.
        device.panics.store(true, Ordering::Relaxed);
        stumbles(&mut egress, &Ready::of(&[TOKEN]));
        egress.on_panic(NOW);
        assert_eq!(egress.wake_at(), Some(NOW));
    }

    #[test]
    fn a_device_is_watched_again_though_the_batch_that_tries_it_panics() {
        let (mut egress, device, _lane, _notices) = driven();
        device.inner.fail_read(ErrorKind::Other);
        egress.turn(&Ready::of(&[TOKEN]), NOW);
        assert!(!is_watched(&egress, &device));
        let at = egress.wake_at().unwrap();
        device.panics.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let turn = catch_unwind(AssertUnwindSafe(|| egress.turn(&nothing_ready(), at)));
            assert!(turn.is_err());
            egress.on_panic(at);
        }
        device.panics.store(false, Ordering::Relaxed);
        egress.turn(&nothing_ready(), at);
        assert_eq!(egress.wake_at(), None);
        assert!(is_watched(&egress, &device));
    }

    #[test]
    fn a_device_that_cannot_be_watched_again_is_tried_and_counted_until_it_can() {
        let (mut egress, device, lane, _notices) = driven();
        device.inner.fail_read(ErrorKind::Other);
        egress.turn(&Ready::of(&[TOKEN]), NOW);
        device.unwatchable.store(true, Ordering::Relaxed);
        for failures in 2..6 {
            let at = egress.wake_at().expect("it is tried again");
            egress.turn(&nothing_ready(), at);
            let counted = lane.counters.refused.count(DropReason::DeviceFailed);
            assert_eq!(counted, failures);
        }
        device.unwatchable.store(false, Ordering::Relaxed);
        egress.turn(&nothing_ready(), egress.wake_at().unwrap());
        assert_eq!(egress.wake_at(), None);
        assert!(is_watched(&egress, &device));
    }

    #[test]
    fn a_device_that_was_removed_costs_a_call_a_second_and_one_that_is_back_begins_anew() {
        let (mut egress, device, _lane, _notices) = driven();
        let fail = |egress: &mut Egress, ready: &Ready, now: Time| {
            device.inner.fail_read(ErrorKind::NotConnected);
            egress.turn(ready, now);
            egress.wake_at().unwrap()
        };
        let mut now = NOW;
        let mut ready = Ready::of(&[TOKEN]);
        let mut rests = Vec::new();
        for _ in 0..7 {
            let at = fail(&mut egress, &ready, now);
            rests.push(at.since(now).as_millis());
            (now, ready) = (at, nothing_ready());
        }
        assert_eq!(rests, [50, 100, 200, 400, 800, 1000, 1000]);
        egress.turn(&nothing_ready(), now);
        assert_eq!(egress.wake_at(), None);
        let at = fail(&mut egress, &Ready::of(&[TOKEN]), now);
        assert_eq!(at.since(now), REST);
    }
}
