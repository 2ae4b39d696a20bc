//! Several Child SAs of one tunnel, each for other networks: created, rekeyed, deleted and counted each by itself.

use std::time::Duration;

use groundlink::ike::{Command, DownReason, Rekey, SelectorMode, Settings, Start};
use groundlink::net::{Policy, Prefix};

use crate::monitor::Gap;
use crate::node::Node;
use crate::pair::{LATENCY, Pair, Side, TUNNEL, settings};

/// The settings of a side with two networks of its own, and of the peer.
fn networks(side: Side, selectors: SelectorMode) -> Settings {
    let prefixes = |side: Side| {
        let texts = match side {
            Side::A => ["10.1.0.0/24", "10.1.1.0/24"],
            Side::B => ["10.2.0.0/24", "10.2.1.0/24"],
        };
        texts.map(|text| text.parse::<Prefix>().unwrap().into())
    };
    Settings {
        policy: Policy {
            local: prefixes(side).to_vec(),
            remote: prefixes(side.other()).to_vec(),
        },
        selectors,
        ..settings(side)
    }
}

/// A pair of which A creates a Child SA for each of the four pairs of networks; B takes what comes.
fn pairs() -> Pair {
    pairs_with(
        networks(Side::A, SelectorMode::Pairs),
        networks(Side::B, SelectorMode::Together),
        (1, 2),
    )
}

fn pairs_with(a: Settings, b: Settings, seeds: (u8, u8)) -> Pair {
    let both = [a.clone(), b.clone()];
    let mut pair = Pair::with_seeds(a, b, seeds);
    pair.flows = both.map(|settings| {
        let as_pairs = Settings {
            selectors: SelectorMode::Pairs,
            ..settings
        };
        as_pairs.child_policies()
    });
    pair.monitor.limit.children *= 4;
    pair
}

/// The selectors of the Child SAs that `status` shows.
fn shown(node: &Node) -> Vec<Policy> {
    let children = node.view().children;
    children.iter().map(|child| child.policy.clone()).collect()
}

/// The reason why the sides do not share one Child SA of each pair, all of them in use.
fn disagreement(pair: &Pair) -> Option<String> {
    let spis = |node: &Node| -> Vec<(u32, u32)> {
        let mut spis: Vec<_> = (node.children.iter())
            .map(|child| (child.spi_in, child.spi_out))
            .collect();
        spis.sort_unstable();
        spis
    };
    let mut mirrored: Vec<_> = spis(&pair.b).iter().map(|(i, o)| (*o, *i)).collect();
    mirrored.sort_unstable();
    let counts = (shown(&pair.a).len(), shown(&pair.b).len());
    if spis(&pair.a) == mirrored && counts == (4, 4) && spis(&pair.a).len() == 4 {
        return None;
    }
    Some(format!(
        "{counts:?}: {:08x?} {:08x?}",
        spis(&pair.a),
        mirrored
    ))
}

fn assert_agreed(pair: &Pair) {
    if let Some(why) = disagreement(pair) {
        panic!("{why}: {:?} {:?}", pair.a.events, pair.b.events);
    }
}

#[test]
fn each_pair_of_networks_has_a_child_sa_of_its_own_and_each_carries_its_traffic() {
    let mut pair = pairs();
    pair.run_for(Duration::from_secs(2));
    assert_agreed(&pair);
    assert_eq!(
        shown(&pair.a),
        networks(Side::A, SelectorMode::Pairs).child_policies()
    );
    let view = pair.a.view();
    assert_eq!(view.child.unwrap().spi_in, view.children[0].spi_in);
    let begun = pair.now;
    pair.traffic(Duration::from_millis(10));
    pair.run_for(Duration::from_secs(5));
    assert_eq!(pair.monitor.gaps_since(begun), []);
    assert_eq!(pair.a.failures.len() + pair.b.failures.len(), 0);
}

#[test]
fn either_side_rekeys_each_of_them_and_the_ike_sa_and_nothing_is_lost() {
    let mut pair = pairs();
    pair.run_for(Duration::from_secs(2));
    pair.traffic(Duration::from_millis(10));
    let (begun, before) = (pair.now, (shown(&pair.a), shown(&pair.b)));
    let mut rekeys = 0;
    for side in [Side::A, Side::B, Side::B, Side::A] {
        for what in [Rekey::Child, Rekey::Ike] {
            let spis: Vec<u32> = pair.a.children.iter().map(|child| child.spi_in).collect();
            pair.command(
                side,
                Command::Rekey {
                    tunnel: TUNNEL,
                    what,
                },
            );
            pair.run_for(Duration::from_secs(10));
            assert_agreed(&pair);
            let kept = |child: &&groundlink::ike::Child| spis.contains(&child.spi_in);
            let kept = pair.a.children.iter().filter(kept).count();
            assert_eq!(
                kept,
                if what == Rekey::Child { 0 } else { 4 },
                "{side:?} {what:?}"
            );
        }
        rekeys += 4;
        assert_eq!(pair.a.view().rekeys.child, rekeys);
        assert_eq!(pair.b.view().rekeys.child, rekeys);
    }
    assert_eq!((shown(&pair.a), shown(&pair.b)), before, "the order stays");
    assert_eq!(pair.monitor.gaps_since(begun), []);
}

#[test]
fn one_that_the_peer_deletes_is_created_again_and_the_others_carry_on() {
    let mut pair = pairs();
    pair.run_for(Duration::from_secs(2));
    let gone = pair.b.children[1].clone();
    let (tunnel, spi_in, why) = (TUNNEL, gone.spi_in, "no room".to_owned());
    pair.command(
        Side::B,
        Command::InstallFailed {
            tunnel,
            spi_in,
            why,
        },
    );
    pair.run_for(LATENCY * 2);
    assert_eq!((pair.a.children.len(), pair.b.children.len()), (3, 3));
    assert_eq!(pair.a.down_reasons, [DownReason::PeerDeleted]);
    pair.run_for(Duration::from_secs(5));
    assert_agreed(&pair);
    assert_eq!(pair.a.ikes.len(), 1);
    assert_eq!(pair.a.count("IkeUp"), 1);
}

#[test]
fn a_tunnel_that_waits_for_the_peer_serves_as_many_as_it_creates() {
    //  B, which would create one with all networks, responds to A's four; then A's IKE SA ends, and B's comes with all.
    let mut a = networks(Side::A, SelectorMode::Pairs);
    a.start = Start::Add;
    let mut b = networks(Side::B, SelectorMode::Together);
    b.start = Start::Auto;
    let mut pair = pairs_with(a, b, (1, 2));
    pair.run_for(Duration::from_secs(2));
    assert_eq!(shown(&pair.a).len(), 1, "all networks are served");
    assert_eq!(shown(&pair.a)[0].remote.len(), 2);
    pair.traffic(Duration::from_millis(10));
    let begun = pair.now;
    pair.run_for(Duration::from_secs(2));
    assert_eq!(pair.monitor.gaps_since(begun), []);
}

#[test]
fn both_sides_create_pairs_at_once_and_have_one_of_each_in_the_end() {
    for seed in 1..5 {
        let mut b = networks(Side::B, SelectorMode::Pairs);
        b.start = Start::Auto;
        b.child_lifetime = Duration::from_secs(40);
        let mut a = networks(Side::A, SelectorMode::Pairs);
        a.child_lifetime = Duration::from_secs(40);
        let mut pair = pairs_with(a, b, (seed, seed + 100));
        pair.run_for(Duration::from_secs(90));
        pair.traffic(Duration::from_millis(20));
        let begun = pair.now;
        pair.run_for(Duration::from_secs(60));
        let lost = pair.monitor.gaps_since(begun);
        assert_eq!(lost, [], "seed {seed}");
    }
}

#[test]
fn rekeys_of_several_under_heavy_loss_leave_none_without_an_sa() {
    for seed in 1..10 {
        let mut a = networks(Side::A, SelectorMode::Pairs);
        let mut b = networks(Side::B, SelectorMode::Together);
        a.child_lifetime = Duration::from_secs(400);
        b.child_lifetime = Duration::from_secs(400);
        a.ike_lifetime = Duration::from_secs(1000);
        let mut pair = pairs_with(a, b, (seed, seed + 100));
        pair.run_for(Duration::from_secs(3));
        assert_agreed(&pair);
        let mut number = u64::from(seed);
        pair.impairment(move |_, _| {
            number = number
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            match (number >> 33) % 10 {
                0 => vec![],
                1 | 2 => vec![LATENCY, LATENCY * 3],
                _ => vec![LATENCY],
            }
        });
        pair.traffic(Duration::from_secs(1));
        let begun = pair.now;
        pair.run_for(Duration::from_secs(2000));
        pair.no_impairment();
        pair.run_for(Duration::from_secs(30));
        let gaps = pair.monitor.gaps_since(begun);
        // The monitor has asserted that no rekey lost a packet.
        let of_rekeys = gaps.iter().filter(|(.., gap)| *gap == Gap::NoSa);
        assert_eq!(of_rekeys.count(), 0, "seed {seed}: {gaps:?}");
        assert!(pair.a.view().rekeys.child >= 16, "seed {seed}");
    }
}
