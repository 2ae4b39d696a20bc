//! One gateway: the IKE engine and a model of the daemon that applies its events.

use std::collections::BTreeSet;

use groundlink::crypto::Generator;
use groundlink::ike::{
    Child, Command, Content, DownReason, Endpoint, Event, Failure, IkeView, Role, Sends, Transmit,
    TunnelState, View,
};
use groundlink::net::Time;
use groundlink::wire::IkeSpi;

use crate::esp::Esp;
use crate::pair::TUNNEL;

/// One gateway and its recorded events.
pub struct Node {
    pub endpoint: Endpoint,
    /// The Child SAs that are installed.
    pub children: Vec<Child>,
    /// The IKE SAs that are established, by their SPIs.
    pub ikes: BTreeSet<(IkeSpi, IkeSpi)>,
    pub esp: Esp,
    pub failures: Vec<Failure>,
    pub events: Vec<&'static str>,
    /// The reasons of all Child SA removals, in order.
    pub down_reasons: Vec<DownReason>,
    pub sent: Vec<Transmit>,
    /// The gateway is suspended until this time: no datagram arrives and no timer fires.
    pub asleep_until: Time,
    /// The number of next Child SAs that fail to install.
    pub broken_installs: u32,
}

impl Node {
    pub fn new(now: Time, seed: [u8; 32]) -> Node {
        Node {
            endpoint: Endpoint::new(Generator::from_seed(seed)),
            children: Vec::new(),
            ikes: BTreeSet::new(),
            esp: Esp::default(),
            failures: Vec::new(),
            events: Vec::new(),
            down_reasons: Vec::new(),
            sent: Vec::new(),
            asleep_until: now,
            broken_installs: 0,
        }
    }

    pub fn view(&self) -> View {
        self.endpoint.view(TUNNEL).expect("the tunnel was added")
    }

    pub fn state(&self) -> TunnelState {
        self.view().state
    }

    /// The inbound SPI of the Child SA used for sending.
    pub fn outbound(&self) -> Option<u32> {
        self.esp.sender(TUNNEL)
    }

    pub fn codes(&self) -> Vec<&'static str> {
        self.failures.iter().map(|failure| failure.code).collect()
    }

    /// The number of recorded events with this name.
    pub fn count(&self, event: &str) -> usize {
        self.events
            .iter()
            .filter(|recorded| **recorded == event)
            .count()
    }

    /// The IKE message sent as number `index`.
    pub fn sent_ike(&self, index: usize) -> Vec<u8> {
        match &self.sent[index].content {
            Content::Ike(bytes) => bytes.clone(),
            Content::Keepalive => panic!("number {index} is a keepalive"),
        }
    }

    /// Applies an event as the daemon does and returns a resulting command for the engine. An inconsistent event fails the test.
    pub fn apply_event(&mut self, now: Time, event: Event) -> Option<Command> {
        // Injected messages may cause this event, which belongs to no tunnel.
        if matches!(event, Event::Dropped { .. }) {
            return None;
        }
        self.events.push(name(&event));
        match event {
            Event::ChildUp(child) => return self.install(*child),
            Event::ChildPreferred { spi_in, .. } => self.esp.prefer(spi_in),
            Event::ChildDown { spi_in, reason, .. } => {
                let before = self.children.len();
                self.children.retain(|child| child.spi_in != spi_in);
                assert_eq!(self.children.len() + 1, before, "{spi_in:08x} was not up");
                self.esp.remove(now, spi_in, reason);
                self.down_reasons.push(reason);
            }
            Event::PeerMoved { tunnel, remote } => self.esp.moved(tunnel, remote),
            Event::IkeUp { ike, .. } => self.ike_up(&ike),
            Event::IkeRekeyed { old, ike, .. } => {
                assert!(self.ikes.remove(&old), "{old:?} was not up");
                self.ike_up(&ike);
            }
            Event::IkeDown { spis, .. } => {
                assert!(self.ikes.remove(&spis), "{spis:?} was not up");
            }
            Event::Failed { failure, .. } => self.failures.push(failure),
            Event::Dropped { .. }
            | Event::Resolve { .. }
            | Event::ChildOffered { .. }
            | Event::Source { .. }
            | Event::Connecting { .. }
            | Event::RekeyChecked { .. } => {}
        }
        None
    }

    fn install(&mut self, child: Child) -> Option<Command> {
        let (tunnel, spi_in) = (child.tunnel, child.spi_in);
        let up = |spi| self.children.iter().any(|child| child.spi_in == spi);
        assert!(!up(spi_in), "{spi_in:08x} is up already");
        // The old Child SA may be gone already: deleted by the peer while the response was in flight.
        let known = |spi| up(spi) || self.esp.was_removed(spi);
        let replaced = child.replaces.is_none_or(known);
        assert!(replaced, "{:08x?} was never up", child.replaces);
        self.esp.install(&child);
        self.children.push(child);
        if self.broken_installs > 0 {
            self.broken_installs -= 1;
            return Some(Command::InstallFailed {
                tunnel,
                spi_in,
                why: "the device is gone".to_owned(),
            });
        }
        None
    }

    fn ike_up(&mut self, ike: &IkeView) {
        let spis = (ike.spi_i, ike.spi_r);
        assert!(self.ikes.insert(spis), "{spis:?} is up already");
    }

    /// A gateway with a Child SA has one to send over. Exception: a Child SA of our own exchange that does not send yet has lost
    /// a collision and waits for its deletion.
    pub fn assert_sends(&self) {
        let lost = |child: &&Child| child.role == Role::Initiator && child.sends == Sends::Later;
        for child in self.children.iter().filter(|child| !lost(child)) {
            assert!(
                self.esp.sends(child.tunnel, &child.policy),
                "{:08x} is up, and none sends: {:?}",
                child.spi_in,
                self.events
            );
        }
    }
}

/// The name of an event.
fn name(event: &Event) -> &'static str {
    match event {
        Event::Resolve { .. } => "Resolve",
        Event::Source { .. } => "Source",
        Event::Connecting { .. } => "Connecting",
        Event::IkeUp { .. } => "IkeUp",
        Event::IkeDown { .. } => "IkeDown",
        Event::IkeRekeyed { .. } => "IkeRekeyed",
        Event::PeerMoved { .. } => "PeerMoved",
        Event::RekeyChecked { .. } => "RekeyChecked",
        Event::ChildOffered { .. } => "ChildOffered",
        Event::ChildUp(_) => "ChildUp",
        Event::ChildPreferred { .. } => "ChildPreferred",
        Event::ChildDown { .. } => "ChildDown",
        Event::Failed { .. } => "Failed",
        Event::Dropped { .. } => "Dropped",
    }
}
