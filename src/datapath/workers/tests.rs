use super::super::counters::PacketDropCounters;
use super::super::ingress::Receives;
use super::super::notice::{self, Notice, NoticeSender, Notices};
use super::super::tables::EgressState;
use super::super::testing::{B, OTHER_ADDRESS, eventually, socket_entry, to_a};
use super::*;
use crate::esp::testing::{mirrored, policy};
use crate::net::segment::GsoKind;
use crate::net::{DropReason, TunnelId};
use crate::os::memory::{MemoryDevice, MemoryNetwork};
use crate::os::{Device, GsoSupport, OutPacket, ReadBatch};
use arc_swap::ArcSwap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

struct Tunnel {
    device: Arc<MemoryDevice>,
    shared: Arc<TunnelShared>,
    slot: TunnelSlot,
}

fn pool_with_tunnels(count: u32) -> (WorkerPool, Vec<Tunnel>, Notices) {
    let (sender, notices) = notice::channel(512).unwrap();
    let mut pool = WorkerPool::default();
    let tunnels = (0..count).map(|id| add(&mut pool, id, &sender)).collect();
    (pool, tunnels, notices)
}

fn ingress(sender: &NoticeSender, unmatched: &Arc<PacketDropCounters>) -> Ingress {
    Ingress::new(
        Arc::default(),
        unmatched.clone(),
        sender.clone(),
        Arc::default(),
    )
}

/// A tunnel that waits for an SA.
fn trapping(id: u32, device: Arc<dyn Device>, waker: Signal) -> Arc<TunnelShared> {
    Arc::new(TunnelShared {
        id: TunnelId(id),
        device,
        egress: ArcSwap::from_pointee(EgressState::Trap(mirrored(policy()))),
        counters: Arc::default(),
        icmp: None,
        waker,
    })
}

fn add(pool: &mut WorkerPool, id: u32, sender: &NoticeSender) -> Tunnel {
    let device = Arc::new(MemoryDevice::new(10).unwrap());
    let (slot, shared) = pool
        .add_tunnel(
            || ingress(sender, &Arc::default()),
            |waker| trapping(id, device.clone(), waker),
            |tunnel| TunnelEgress::new(tunnel, sender),
        )
        .unwrap();
    Tunnel {
        device,
        shared,
        slot,
    }
}

#[test]
fn forty_tunnels_share_as_many_workers_as_there_are_cores() {
    let (pool, tunnels, notices) = pool_with_tunnels(40);
    let cores = available_parallelism().map_or(1, |cores| cores.get().min(MAX_EGRESS));
    let loads: Vec<usize> = pool
        .egress
        .iter()
        .map(|worker| lock(&worker.sources).len())
        .collect();
    assert_eq!((loads.len(), loads.iter().sum::<usize>()), (cores, 40));
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1);
    for (id, tunnel) in (0..).zip(&tunnels) {
        assert!(tunnel.device.inject(&to_a(60)));
        assert_eq!(eventually(|| notices.next()), Notice::Demand(TunnelId(id)));
    }
}

#[test]
fn a_removed_tunnel_is_released_at_once_and_the_others_stay() {
    let (pool, mut tunnels, notices) = pool_with_tunnels(6);
    for tunnel in tunnels.drain(..3) {
        assert!(tunnel.device.inject(&to_a(60)));
        eventually(|| notices.next());
        pool.remove_tunnel(tunnel.slot);
        drop(tunnel.shared);
        assert_eq!(Arc::strong_count(&tunnel.device), 1);
        assert!(tunnel.device.inject(&to_a(60)));
    }
    for tunnel in &tunnels {
        assert!(tunnel.device.inject(&to_a(60)));
        assert_eq!(
            eventually(|| notices.next()),
            Notice::Demand(tunnel.shared.id)
        );
    }
}

#[test]
fn a_device_that_fails_is_tried_again_and_delays_no_other() {
    let (_pool, tunnels, notices) = pool_with_tunnels(20);
    tunnels[0].device.fail_read(ErrorKind::NotConnected);
    assert_eq!(
        eventually(|| notices.next()),
        Notice::DeviceGone(TunnelId(0))
    );
    for tunnel in &tunnels[1..] {
        assert!(tunnel.device.inject(&to_a(60)));
        assert_eq!(
            eventually(|| notices.next()),
            Notice::Demand(tunnel.shared.id)
        );
    }
    assert!(tunnels[0].device.inject(&to_a(60)));
    assert_eq!(eventually(|| notices.next()), Notice::Demand(TunnelId(0)));
}

#[test]
fn trapped_packets_are_dropped_when_their_tunnel_is_closed() {
    let (_pool, tunnels, notices) = pool_with_tunnels(3);
    assert!(tunnels[1].device.inject(&to_a(60)));
    eventually(|| notices.next());
    let shared = &tunnels[1].shared;
    shared.egress.store(Arc::new(EgressState::Closed));
    shared.waker.set();
    let dropped = &shared.counters.dropped;
    eventually(|| (dropped.count(DropReason::NoSa) == 1).then_some(()));
}

/// A device that can be made to panic when it is read, or to have a descriptor that epoll rejects.
struct FaultyDevice {
    inner: MemoryDevice,
    file: File,
    panics: AtomicBool,
    unwatchable: AtomicBool,
}

impl Device for FaultyDevice {
    fn read(&self, batch: &mut ReadBatch) -> io::Result<usize> {
        let read = self.inner.read(batch);
        assert!(
            !self.panics.load(Ordering::Relaxed),
            "a panic that this test wants"
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

/// The work of a worker, driven by the test, with one tunnel that waits for an SA.
fn driven() -> (Service, Arc<FaultyDevice>, Arc<TunnelShared>, Notices) {
    let (sender, notices) = notice::channel(8).unwrap();
    let device = Arc::new(FaultyDevice {
        inner: MemoryDevice::new(10).unwrap(),
        file: File::open("/proc/self/exe").unwrap(),
        panics: AtomicBool::new(false),
        unwatchable: AtomicBool::new(false),
    });
    let service = service(&sender, &Arc::default());
    let tunnel = trapping(1, device.clone(), service.waiter.waker());
    let egress = TunnelEgress::new(Arc::clone(&tunnel), &sender);
    let source = Source::Tunnel(Arc::new(Mutex::new(Some(egress))));
    service.waiter.watch(device.as_fd(), TOKEN).unwrap();
    lock(&service.sources).insert(TOKEN, source);
    (service, device, tunnel, notices)
}

fn service(sender: &NoticeSender, unmatched: &Arc<PacketDropCounters>) -> Service {
    Service {
        waiter: Arc::new(Waiter::new().unwrap()),
        sources: Arc::default(),
        egress: EgressScratch::new(Arc::default()),
        ingress: ingress(sender, unmatched),
        deadlines: BTreeMap::new(),
        current: None,
    }
}

#[test]
fn a_failing_socket_is_counted_and_backed_off_while_no_other_source_has_anything() {
    let (sender, notices) = notice::channel(8).unwrap();
    let unmatched = Arc::<PacketDropCounters>::default();
    let mut service = service(&sender, &unmatched);
    let network = MemoryNetwork::new();
    let sockets = [500, 4500].map(|port| {
        let address = SocketAddr::new(B, port);
        Arc::new(network.bind(address, 10).unwrap())
    });
    for (token, receives) in [Receives::Ike, Receives::IkeAndEsp].into_iter().enumerate() {
        let entry = socket_entry(&sockets[token], receives);
        lock(&service.sources).insert(token as u32, Source::Socket(Arc::new(entry)));
    }
    let ready = Ready::of(&[0, 1]);
    for _ in 0..3 {
        sockets[1].fail_recv(ErrorKind::OutOfMemory);
    }
    for _ in 0..2 {
        assert_eq!(service.turn(&ready, NOW), PollOutcome::Backoff);
    }
    assert!(sockets[0].inject(OTHER_ADDRESS, &[0xff]));
    assert_eq!(service.turn(&ready, NOW), PollOutcome::Done);
    assert_eq!(
        service.turn(&ready, NOW),
        PollOutcome::Done,
        "nothing waits"
    );
    assert_eq!(unmatched.count(DropReason::ReceiveFailed), 3);
    assert_eq!(notices.next(), None);
}

fn nothing_ready() -> Ready {
    Ready::of(&[])
}

/// Whether the device would wake its worker.
fn is_watched(service: &Service, device: &FaultyDevice) -> bool {
    assert!(device.inner.inject(&to_a(60)));
    let ready = service.waiter.wait(Some(Duration::ZERO)).unwrap();
    let _ = device.inner.read(&mut ReadBatch::new());
    ready.tokens().contains(&TOKEN)
}

#[test]
fn trapped_packets_keep_their_deadline_though_a_batch_panics() {
    let (mut service, device, tunnel, _notices) = driven();
    assert!(device.inner.inject(&to_a(60)));
    service.turn(&Ready::of(&[TOKEN]), NOW);
    let until = service.wake_at().expect("a packet is trapped");

    device.panics.store(true, Ordering::Relaxed);
    let panics_in = |service: &mut Service, ready: &Ready| {
        let turn = catch_unwind(AssertUnwindSafe(|| service.turn(ready, NOW)));
        assert!(turn.is_err());
    };
    panics_in(&mut service, &Ready::of(&[TOKEN]));
    assert_eq!(service.wake_at(), Some(until), "the deadline stays");
    service.on_panic(NOW);
    assert_eq!(service.wake_at(), Some(NOW), "and becomes immediate");

    // The tunnel's new state is seen.
    device.panics.store(false, Ordering::Relaxed);
    tunnel.egress.store(Arc::new(EgressState::Closed));
    service.turn(&nothing_ready(), NOW);
    assert_eq!(tunnel.counters.dropped.count(DropReason::NoSa), 1);
    assert_eq!(service.wake_at(), None);

    // A packet without a deadline yet is not lost either.
    device.panics.store(true, Ordering::Relaxed);
    panics_in(&mut service, &Ready::of(&[TOKEN]));
    service.on_panic(NOW);
    assert_eq!(service.wake_at(), Some(NOW));
}

#[test]
fn a_device_is_watched_again_though_the_batch_of_its_retry_panics() {
    let (mut service, device, _lane, _notices) = driven();
    device.inner.fail_read(ErrorKind::Other);
    service.turn(&Ready::of(&[TOKEN]), NOW);
    assert!(!is_watched(&service, &device));
    let at = service.wake_at().unwrap();
    device.panics.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let turn = catch_unwind(AssertUnwindSafe(|| service.turn(&nothing_ready(), at)));
        assert!(turn.is_err());
        service.on_panic(at);
    }
    device.panics.store(false, Ordering::Relaxed);
    service.turn(&nothing_ready(), at);
    assert_eq!(service.wake_at(), None);
    assert!(is_watched(&service, &device));
}

#[test]
fn a_device_that_cannot_be_watched_is_retried_and_counted_until_it_can() {
    let (mut service, device, tunnel, _notices) = driven();
    device.inner.fail_read(ErrorKind::Other);
    service.turn(&Ready::of(&[TOKEN]), NOW);
    device.unwatchable.store(true, Ordering::Relaxed);
    for failures in 2..6 {
        let at = service.wake_at().expect("a retry");
        service.turn(&nothing_ready(), at);
        let counted = tunnel.counters.dropped.count(DropReason::DeviceFailed);
        assert_eq!(counted, failures);
    }
    device.unwatchable.store(false, Ordering::Relaxed);
    service.turn(&nothing_ready(), service.wake_at().unwrap());
    assert_eq!(service.wake_at(), None);
    assert!(is_watched(&service, &device));
}

#[test]
fn the_pauses_of_a_removed_device_double_up_to_a_second_and_start_again_once_it_is_read() {
    let (mut service, device, _lane, _notices) = driven();
    let fail = |service: &mut Service, ready: &Ready, now: Time| {
        device.inner.fail_read(ErrorKind::NotConnected);
        service.turn(ready, now);
        service.wake_at().unwrap()
    };
    let mut now = NOW;
    let mut ready = Ready::of(&[TOKEN]);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let at = fail(&mut service, &ready, now);
        pauses.push(at.since(now).as_millis());
        (now, ready) = (at, nothing_ready());
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
    service.turn(&nothing_ready(), now);
    assert_eq!(service.wake_at(), None);
    let at = fail(&mut service, &Ready::of(&[TOKEN]), now);
    assert_eq!(at.since(now), BACKOFF);
}

/// Counts its turns and panics in the first.
struct PanickingWork(u32, Sender<u32>);

impl Work for PanickingWork {
    fn turn(&mut self, _ready: &Ready, _now: Time) -> PollOutcome {
        self.0 += 1;
        let _ = self.1.send(self.0);
        assert!(self.0 > 1, "a panic that this test wants");
        PollOutcome::Done
    }

    fn wake_at(&self) -> Option<Time> {
        None
    }

    fn on_panic(&mut self, _now: Time) {
        self.0 = 10;
    }
}

/// Asks for a pause after every turn.
struct BackingOff(Sender<Instant>);

impl Work for BackingOff {
    fn turn(&mut self, _ready: &Ready, _now: Time) -> PollOutcome {
        let _ = self.0.send(Instant::now());
        PollOutcome::Backoff
    }

    fn wake_at(&self) -> Option<Time> {
        Some(Time::ZERO)
    }

    fn on_panic(&mut self, _now: Time) {}
}

fn spawn(waiter: Waiter, work: impl Work) -> Worker {
    Worker::spawn("test".into(), Arc::new(waiter), Arc::default(), work).unwrap()
}

#[test]
fn a_worker_pauses_after_a_turn_that_backs_off() {
    let (sender, turns) = channel();
    let worker = spawn(Waiter::new().unwrap(), BackingOff(sender));
    let [first, second, third] = [(); 3].map(|()| turns.recv().unwrap());
    assert!(second - first >= BACKOFF && third - second >= BACKOFF);
    drop(worker);
}

#[test]
fn a_worker_goes_on_after_a_panic() {
    let (sender, turns) = channel();
    let waiter = Waiter::new().unwrap();
    waiter.waker().set();
    let worker = spawn(waiter, PanickingWork(0, sender));
    assert_eq!((turns.recv(), turns.recv()), (Ok(1), Ok(11)));
    drop(worker);
    assert!(turns.iter().count() <= 1, "the thread has ended");
}
