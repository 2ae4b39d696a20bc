//! The workers that serve the tunnels' devices, and which of them serves which.
//!
//! ```text
//!   worker 0   device 0 · device 2 · device 4 …      one set of buffers each, however many tunnels there are
//!   worker 1   device 1 · device 3 · …
//! ```
//!
//! One worker alone reads from a tunnel's device and seals for its outbound SA, so its packets leave in the order they came. A
//! tunnel that is idle costs nothing but its place here. What it needs between two batches ([`Road`]) lies under a lock that only
//! its worker takes, once a batch, except when the tunnel comes or goes.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::egress::{Buffers, Reading, Road};
use super::stages::Stages;
use super::tables::Lane;
use super::worker::{Turn, Work, Worker};
use crate::net::Time;
use crate::os::poll::{Ready, Signal, Waiter};

/// The roads of one worker, by the token their devices are watched under.
type Roads = ArcSwap<BTreeMap<u32, Arc<Post>>>;

/// A tunnel's place with its worker; empty once the tunnel has gone.
type Post = Mutex<Option<Road>>;

/// All of them. Dropping it ends the workers.
#[derive(Default)]
pub(super) struct Crew {
    members: Vec<Member>,
    /// Every tunnel gets a token of its own, so that a late wake-up never means another.
    next: u32,
    stages: Arc<Stages>,
}

struct Member {
    waiter: Arc<Waiter>,
    roads: Arc<Roads>,
    _worker: Worker,
}

/// Which worker serves a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    member: usize,
    token: u32,
}

/// A worker may have this many; beyond, they would only share the sockets' locks.
const MOST: usize = 8;

impl Crew {
    /// What its workers have spent, where.
    pub(super) fn stages(&self) -> &Arc<Stages> {
        &self.stages
    }

    /// Has a worker serve a tunnel: the one with the fewest, or a new one as long as there are cores for it. `lane` makes the
    /// tunnel's lane from what wakes that worker; `road` what it needs from there.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub(super) fn add(
        &mut self,
        lane: impl FnOnce(Signal) -> Arc<Lane>,
        road: impl FnOnce(Arc<Lane>) -> Road,
    ) -> io::Result<(Place, Arc<Lane>)> {
        let cores = available_parallelism().map_or(1, |cores| cores.get().min(MOST));
        if self.members.len() < cores {
            self.members
                .push(Member::hire(self.members.len(), &self.stages)?);
        }
        let load = |(_, member): &(usize, &Member)| member.roads.load().len();
        let (index, member) = self
            .members
            .iter()
            .enumerate()
            .min_by_key(load)
            .ok_or(io::ErrorKind::NotFound)?;
        let place = Place {
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
    pub(super) fn remove(&self, place: Place) {
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

impl Member {
    fn hire(number: usize, stages: &Arc<Stages>) -> io::Result<Member> {
        let (waiter, roads) = (Arc::new(Waiter::new()?), Arc::<Roads>::default());
        let work = Egress {
            waiter: Arc::clone(&waiter),
            roads: Arc::clone(&roads),
            buffers: Buffers::new(Arc::clone(stages)),
            alarms: BTreeMap::new(),
        };
        let worker = Worker::spawn(format!("egress {number}"), Arc::clone(&waiter), work)?;
        Ok(Member {
            waiter,
            roads,
            _worker: worker,
        })
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<u32, Arc<Post>>)) {
        let mut roads = BTreeMap::clone(&self.roads.load());
        change(&mut roads);
        self.roads.store(Arc::new(roads));
    }
}

/// The worker of some tunnels' devices.
struct Egress {
    waiter: Arc<Waiter>,
    roads: Arc<Roads>,
    buffers: Buffers,
    /// Tunnels that have something to do even if nothing comes, or wait for the control plane.
    alarms: BTreeMap<u32, Alarm>,
}

/// What is to be done, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    /// Packets that wait have waited long enough, if their SA has not come before.
    Look(Time),
    /// The device could not be read and is not watched; it is tried again.
    Retry(Time),
}

/// A device that cannot be read is left alone for so long.
const REST: Duration = Duration::from_millis(50);

impl Work for Egress {
    fn turn(&mut self, ready: &Ready, now: Time) -> Turn {
        let mut turn = Turn::Done;
        for token in ready.tokens() {
            if self.visit(*token, now) == Reading::More {
                turn = Turn::More;
            }
        }
        // Looked at also without a packet: an SA may have come, or time have passed.
        let due = |alarm: &Alarm| match alarm {
            Alarm::Look(at) => ready.woken || *at <= now,
            Alarm::Retry(at) => *at <= now,
        };
        let alarms = self.alarms.iter().filter(|(_, alarm)| due(alarm));
        let due: Vec<u32> = alarms.map(|(token, _)| *token).collect();
        for token in due {
            self.visit(token, now);
        }
        turn
    }

    fn wake_at(&self) -> Option<Time> {
        let times = self.alarms.values().map(|alarm| match alarm {
            Alarm::Look(at) | Alarm::Retry(at) => *at,
        });
        times.min()
    }
}

impl Egress {
    /// Takes one batch from a tunnel's device.
    #[allow(clippy::arithmetic_side_effects, reason = "time saturates")]
    fn visit(&mut self, token: u32, now: Time) -> Reading {
        let before = self.alarms.remove(&token);
        let post = self.roads.load().get(&token).cloned();
        let Some(post) = post else {
            return Reading::Done;
        };
        let mut road = lock(&post);
        let Some(road) = road.as_mut() else {
            return Reading::Done;
        };
        if let Some(Alarm::Retry(_)) = before {
            let _ = self.waiter.watch(road.lane().device.as_fd(), token);
        }
        let reading = road.batch(&mut self.buffers, now);
        let alarm = match reading {
            Reading::More | Reading::Done => road.wake_at().map(Alarm::Look),
            Reading::Broken => {
                // Or it would be ready for ever.
                let _ = self.waiter.forget(road.lane().device.as_fd());
                Some(Alarm::Retry(now + REST))
            }
        };
        if let Some(alarm) = alarm {
            self.alarms.insert(token, alarm);
        }
        reading
    }
}

fn lock(post: &Post) -> MutexGuard<'_, Option<Road>> {
    // Every batch starts afresh: one that has panicked leaves nothing half done behind.
    post.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::TunnelId;
    use super::super::counters::Counters;
    use super::super::notice::{self, Bell, Notice, Notices};
    use super::super::tables::Outlet;
    use super::super::testing::to_a;
    use super::*;
    use crate::esp::testing::{mirrored, policy};
    use crate::net::Refusal;
    use crate::os::memory::MemoryDevice;
    use std::io::ErrorKind;
    use std::time::Instant;

    struct Tunnel {
        device: Arc<MemoryDevice>,
        lane: Arc<Lane>,
        place: Place,
    }

    fn crew_of(count: u32) -> (Crew, Vec<Tunnel>, Notices) {
        let (bell, notices) = notice::channel(512).unwrap();
        let mut crew = Crew::default();
        let tunnels = (0..count).map(|id| add(&mut crew, id, &bell)).collect();
        (crew, tunnels, notices)
    }

    /// A tunnel without an SA: each packet makes it ask for one.
    fn add(crew: &mut Crew, id: u32, bell: &Bell) -> Tunnel {
        let device = Arc::new(MemoryDevice::new(10).unwrap());
        let lane = |waker| {
            Arc::new(Lane {
                id: TunnelId(id),
                device: device.clone(),
                outlet: ArcSwap::from_pointee(Outlet::Waiting(mirrored(policy()))),
                counters: Counters::default(),
                waker,
            })
        };
        let (place, lane) = crew.add(lane, |lane| Road::new(lane, bell)).unwrap();
        Tunnel {
            device,
            lane,
            place,
        }
    }

    fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "it never happened");
            std::thread::yield_now();
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
        tunnels[1].lane.outlet.store(Arc::new(Outlet::Closed));
        tunnels[1].lane.waker.set();
        let refused = &tunnels[1].lane.counters.refused;
        eventually(|| (refused.count(Refusal::NoSa) == 1).then_some(()));
    }
}
