//! Nothing that a peer puts inside the protection, with the right keys, makes the engine panic or grow without bound.
//!
//! The first byte picks one of two stories. In the first, B meets a [`ScriptedPeer`] that seals whatever the input says, down to lengths and padding that lie:
//!
//! ```text
//! scripted_peer ── IKE_SA_INIT ──▶ B     as it should be
//! scripted_peer ── any exchange, any id, SK { input } ──▶ B ──▶ requests of its own ──▶ scripted_peer ── SK { input } ──▶ B
//! ```
//!
//! In the second, A is our own engine, and the input takes the place of payloads in its IKE_AUTH, CREATE_CHILD_SA and INFORMATIONAL, as initiator and responder,
//! so that B is reached also with keys of later IKE SAs and as the one who asks; once A behaves, both must find together again. Run on the stable toolchain with
//! `cargo fuzz run -s none sk_inner fuzz/corpus/sk_inner fuzz/seeds/sk_inner`.
#![no_main]

use std::time::Duration;

use groundlink::ike::impair::{Change, Rule, Which};
use groundlink::ike::{Command, Content, Rekey, Start};
use groundlink::wire::{ExchangeType, Header, Payload, PayloadType};
use groundlink_fuzz::fuzz_input::FuzzInput;
use groundlink_fuzz::monitor::SaLimit;
use groundlink_fuzz::pair::{Pair, Side, TUNNEL, settings};
use groundlink_fuzz::scripted_peer::ScriptedPeer;
use libfuzzer_sys::fuzz_target;

const MAX_STEPS: usize = 40;

/// IKE SAs of the one tunnel, and last answers of many that are gone.
const MAX_SAS: usize = 300;

/// Datagrams that one message may bring about: the answer, and perhaps in fragments a question of our own.
const MAX_ANSWERS: usize = 16;

const EXCHANGES: [ExchangeType; 3] = [
    ExchangeType::IKE_AUTH,
    ExchangeType::CREATE_CHILD_SA,
    ExchangeType::INFORMATIONAL,
];

fuzz_target!(|input: &[u8]| {
    let mut input = FuzzInput::new(input);
    match input.byte() % 2 {
        0 => run_scripted_peer(&mut input),
        _ => run_impaired_peer(&mut input),
    }
});

/// A person at B, or its own device, wants something: it will ask the peer.
fn local_command(pair: &mut Pair, side: Side, input: &mut FuzzInput) {
    let tunnel = TUNNEL;
    let spi_in = pair.node(side).outbound().unwrap_or(0);
    let remote = std::net::SocketAddr::new(side.other().ip().parse().expect("an address"), 4500);
    let command = match input.byte() % 8 {
        0 | 1 => Command::Rekey {
            tunnel,
            what: Rekey::Child,
        },
        2 | 3 => Command::Rekey {
            tunnel,
            what: Rekey::Ike,
        },
        4 => Command::UnknownSpi { remote, spi: 4711 },
        5 => Command::SequenceExhausted { tunnel, spi_in },
        6 => Command::Down(tunnel),
        _ => Command::Up(tunnel),
    };
    pair.command(side, command);
}

fn assert_bounded(pair: &Pair) {
    let count = pair.b.endpoint.sa_count();
    assert!(count <= MAX_SAS, "{count} IKE SAs");
}

fn run_scripted_peer(input: &mut FuzzInput) {
    let mut scripted_peer = ScriptedPeer::keyed();
    if input.flag() {
        scripted_peer = scripted_peer.authenticated();
    }
    scripted_peer.pair.monitor.limit = SaLimit::HOSTILE;
    let mut ids = Ids {
        ours: if scripted_peer.pair.b.children.is_empty() {
            1
        } else {
            2
        },
        theirs: 0,
        seen: scripted_peer.pair.b.sent.len(),
    };
    for _ in 0..MAX_STEPS {
        let Some(step) = input.step() else { break };
        match step % 8 {
            0 => local_command(&mut scripted_peer.pair, Side::B, input),
            1 => scripted_peer.pair.run_for(input.span()),
            _ => send_message(&mut scripted_peer, &mut ids, step, input),
        }
        ids.track_requests(&scripted_peer);
        assert_bounded(&scripted_peer.pair);
    }
}

/// Which message ids make sense.
struct Ids {
    /// Of our next request.
    ours: u32,
    /// Of B's last one.
    theirs: u32,
    /// How much of what B has sent we have seen.
    seen: usize,
}

impl Ids {
    /// Looks for requests of B in the SA that we share.
    fn track_requests(&mut self, scripted_peer: &ScriptedPeer) {
        let fresh = &scripted_peer.pair.b.sent[self.seen..];
        self.seen += fresh.len();
        for transmit in fresh {
            if let Content::Ike(bytes) = &transmit.content
                && let Ok(header) = Header::parse(bytes)
                && (header.spi_i, header.spi_r)
                    == (scripted_peer.ike_sa.spi_i, scripted_peer.ike_sa.spi_r)
                && !header.flags.response
            {
                self.theirs = header.message_id.0;
            }
        }
    }
}

fn send_message(scripted_peer: &mut ScriptedPeer, ids: &mut Ids, step: u8, input: &mut FuzzInput) {
    let response = step & 8 != 0;
    let exchange = match input.byte() {
        known @ 0..240 => EXCHANGES[usize::from(known) % 3],
        other => ExchangeType(other),
    };
    let awaited = if response { ids.theirs } else { ids.ours };
    let id = match input.byte() {
        0..240 => awaited,
        other => awaited.wrapping_add(u32::from(other)).wrapping_sub(248),
    };
    let sealed = match step >> 6 {
        0 | 1 => {
            let first = PayloadType(input.byte());
            let plaintext = (first, input.bytes());
            scripted_peer.seal_plaintext(exchange, id, response, plaintext)
        }
        2 => scripted_peer.seal(exchange, id, response, &input.payloads()),
        // What an honest peer says, and more.
        _ => {
            let mut payloads = scripted_peer.auth_request();
            vary_payloads(&mut payloads, input);
            scripted_peer.seal(exchange, id, response, &payloads)
        }
    };
    let before = scripted_peer.pair.b.sent.len();
    scripted_peer.deliver(&sealed);
    let sent = scripted_peer.pair.b.sent.len() - before;
    assert!(sent <= MAX_ANSWERS, "{sent} datagrams for one");
    if !response && id == ids.ours && sent > 0 {
        ids.ours = ids.ours.wrapping_add(1);
    }
}

/// Some are left out, others come in between.
fn vary_payloads(payloads: &mut Vec<Payload>, input: &mut FuzzInput) {
    let omitted = input.byte();
    let mut index = 0;
    payloads.retain(|_| {
        index += 1;
        omitted >> (index - 1) & 1 == 0
    });
    let at = usize::from(input.byte()) % (payloads.len() + 1);
    payloads.splice(at..at, input.payloads());
}

fn run_impaired_peer(input: &mut FuzzInput) {
    let [mut a, mut b] = [settings(Side::A), settings(Side::B)];
    let traits = input.byte();
    if traits & 1 != 0 {
        // Then B asks first.
        (a.start, b.start) = (Start::Add, Start::Auto);
    }
    for settings in [&mut a, &mut b] {
        settings.child_lifetime = Duration::from_secs(400);
        settings.ike_lifetime = Duration::from_secs(1000);
    }
    let mut pair = Pair::new(a, b);
    pair.monitor.limit = SaLimit::HOSTILE;
    if std::env::var_os("FUZZ_TRACE").is_some() {
        pair.enable_trace();
    }
    if traits & 2 != 0 {
        pair.run_for(Duration::from_secs(1));
    }
    for _ in 0..MAX_STEPS {
        let Some(step) = input.step() else { break };
        match step % 8 {
            0 | 1 => local_command(&mut pair, Side::A, input),
            2 | 3 => local_command(&mut pair, Side::B, input),
            4 => pair.run_for(input.span()),
            5 => pair.a.endpoint.impair().clear(),
            _ => {
                let rule = rule(input);
                pair.a.endpoint.impair().add(rule);
            }
        }
        pair.run_for(Duration::from_millis(40));
        assert_bounded(&pair);
    }
    pair.a.endpoint.impair().clear();
    for side in [Side::A, Side::B] {
        pair.command(side, Command::Up(TUNNEL));
    }
    // Whatever A has made B do, the next rekeying of every SA, at 90 % of its lifetime at the latest, puts an end to.
    pair.run_for(Duration::from_secs(420));
    let end = pair.now + Duration::from_secs(60);
    while let Some(why) = pair.disagreement() {
        assert!(pair.step(end), "no agreement: {why}");
    }
}

fn rule(input: &mut FuzzInput) -> Rule {
    let exchange = input.one(&EXCHANGES);
    let which = input.one(&[Which::Request, Which::Response]);
    let known = PayloadType(33 + input.byte() % 16);
    let change = match input.byte() % 10 {
        0..=2 => Change::Only(input.payloads()),
        3 => Change::Prepend(input.payloads()),
        4 => Change::Append(input.payloads()),
        5 | 6 => Change::Replace(known, input.bytes().to_vec()),
        7 => Change::Omit(known),
        8 => Change::Duplicate(known),
        _ => Change::Reverse,
    };
    Rule {
        exchange,
        which,
        change,
    }
}
