//! No decrypted content from an authenticated peer makes the engine panic or grow without bound.
//!
//! The first byte selects one of two scenarios. In the first, B meets a [`ScriptedPeer`] that encrypts any content of the input,
//! including wrong lengths and padding:
//!
//! ```text
//! scripted_peer ── IKE_SA_INIT ──▶ B     valid
//! scripted_peer ── any exchange, any id, SK { input } ──▶ B ──▶ requests of its own ──▶ scripted_peer ── SK { input } ──▶ B
//! ```
//!
//! In the second, A runs the engine, and the input replaces payloads in its IKE_AUTH, CREATE_CHILD_SA and INFORMATIONAL messages
//! in both roles, so that B is also reached with the keys of later IKE SAs and as the initiator of exchanges; once A behaves,
//! both sides must agree again. Run on the stable toolchain with `cargo fuzz run -s none sk_inner fuzz/corpus/sk_inner
//! fuzz/seeds/sk_inner`.
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

/// Upper bound on IKE SAs of the tunnel, including closed ones that keep a response.
const MAX_SAS: usize = 300;

/// Upper bound on datagrams sent in reaction to one message: the response, and possibly a fragmented request.
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

/// An operator command or a datapath event that makes this side initiate an exchange.
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

/// The message IDs that are valid next.
struct Ids {
    /// The ID of the scripted peer's next request.
    ours: u32,
    /// The ID of B's last request.
    theirs: u32,
    /// The number of B's messages already examined.
    seen: usize,
}

impl Ids {
    /// Records new requests of B on the shared IKE SA.
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
        // The payloads of a valid peer, and more.
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

/// Removes some payloads and inserts others.
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
        // B initiates then.
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
    // The next rekey of every SA, at 90 % of its lifetime at the latest, ends all effects of A's messages.
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
