//! One tunnel: every key read once, in the order of the table of keys, and what follows from other keys filled in.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::duration;
use super::file::Table;
use super::origin::Origin;
use super::preset::{self, Preset};
use super::resolve::{ResolvedTunnel, SourceSpans};
use super::scope::{Output, Provided, Scope};
use super::settings::{FailClosed, GatewaySettings, Mtu, TunnelSettings, default};
use super::show::{self, list, plain, quoted};
use super::suggest::nearest;
use super::value::{self, DEVICE_NAME_MAX};
use super::{LoadOptions, amount, proposals};
use crate::crypto::{EspProposal, IkeProposal};
use crate::ike::{self, Dpd, Encapsulation, RekeyTest, Start};
use crate::net::{Dscp, Policy, Prefix, Selector};

/// What every tunnel is read against.
pub struct Reader<'a> {
    pub gateway: &'a GatewaySettings,
    pub table: &'a Table,
    pub folder: &'a Path,
    pub options: &'a LoadOptions,
}

impl Reader<'_> {
    /// Reads one tunnel, all of it, whatever is wrong with parts of it.
    pub fn tunnel(
        &self,
        index: usize,
        table: &Table,
        output: &mut Output<'_>,
    ) -> Option<ResolvedTunnel> {
        let mut scope = Scope {
            tunnel: Some(format!("#{}", index + 1)),
            file: table,
            preset: None,
            output,
        };
        let header = scope.header();
        let name = name(&mut scope);
        let device = device(&mut scope, name.as_ref());
        let preset = choose_preset(&mut scope);
        let ends = self.ends(&mut scope);
        let traffic = Traffic::read(&mut scope);
        let protection = Protection::read(&mut scope);
        let upkeep = Upkeep::read(&mut scope);
        let (mtu, mtu_at) = mtu(&mut scope, preset);
        let inside = scope.value("inside", value::inside, show::inside);
        let replay_window = scope.value_or(
            "replay-window",
            value::replay_window,
            plain,
            default::REPLAY_WINDOW,
        );
        let dscp = scope.value_or("dscp", value::dscp, show::dscp, Dscp::Copied);

        let (name, device, ends, traffic, protection) =
            (name?, device?, ends?, traffic?, protection?);
        let at = SourceSpans {
            header,
            device: device.at,
            peer: ends.peer.at,
            local_address: ends.local.at,
            local: traffic.local.at,
            remote: traffic.remote.at,
            routes: traffic.routes.at,
            ike: protection.ike.at,
            esp: protection.esp.at,
            encapsulation: upkeep.encapsulation.at,
            mtu: mtu_at,
        };
        let ike = ike::Settings {
            name: name.value.clone(),
            peer: ends.peer.value,
            local: ends.local.value,
            id: ends.id,
            peer_id: ends.peer_id,
            psk: ends.psk,
            ppk: ends.ppk,
            ike: protection.ike.value,
            esp: protection.esp.value,
            policy: Policy {
                local: selectors(&traffic.local.value),
                remote: selectors(&traffic.remote.value),
            },
            ike_lifetime: protection.ike_lifetime,
            child_lifetime: protection.child_lifetime,
            start: upkeep.start,
            dpd: upkeep.dpd,
            encapsulation: upkeep.encapsulation.value,
            fragment_size: upkeep.fragment_size,
            rekey_test: protection.rekey_test,
        };
        let tunnel = TunnelSettings {
            name: name.value,
            device: device.value,
            preset: preset.name,
            ike,
            routes: traffic.routes.value,
            metric: traffic.metric,
            mtu,
            inside: inside.map(|given| given.value),
            child_bytes: protection.child_bytes,
            child_packets: protection.child_packets,
            replay_window: replay_window.value,
            dscp: dscp.value,
            fail_closed: traffic.fail_closed,
        };
        Some(ResolvedTunnel {
            tunnel,
            preset,
            allow_weak: protection.allow_weak,
            address: ends.address,
            local: traffic.local.value,
            remote: traffic.remote.value,
            at,
        })
    }
}

/// What goes through a tunnel.
struct Traffic {
    local: Provided<Vec<Prefix>>,
    remote: Provided<Vec<Prefix>>,
    routes: Provided<Vec<Prefix>>,
    metric: u32,
    fail_closed: FailClosed,
}

impl Traffic {
    fn read(scope: &mut Scope<'_, '_>) -> Option<Traffic> {
        let advice = "write the networks behind each gateway: local = [\"192.168.1.0/24\"], remote = [\"172.16.1.0/24\"]";
        let local = scope.required("local", value::prefixes, |it| list(it), advice);
        let remote = scope.required("remote", value::prefixes, |it| list(it), advice);
        let routes = routes(scope, remote.as_ref());
        let metric = scope.value_or("metric", value::metric, plain, default::METRIC);
        let fail_closed = scope.value_or("fail-closed", value::boolean, plain, true);
        Some(Traffic {
            local: local?,
            remote: remote?,
            routes: routes?,
            metric: metric.value,
            fail_closed: if fail_closed.value {
                FailClosed::Hold
            } else {
                FailClosed::Leak
            },
        })
    }
}

/// How it is protected, and for how long.
struct Protection {
    ike: Provided<Vec<IkeProposal>>,
    esp: Provided<Vec<EspProposal>>,
    allow_weak: bool,
    ike_lifetime: Duration,
    child_lifetime: Duration,
    child_bytes: Option<u64>,
    child_packets: Option<u64>,
    rekey_test: RekeyTest,
}

impl Protection {
    fn read(scope: &mut Scope<'_, '_>) -> Option<Protection> {
        let ike = scope.required("ike", proposals::ike, |it| list(it), "");
        let esp = scope.required("esp", proposals::esp, |it| list(it), "");
        let allow_weak = scope.value_or("allow-weak", value::boolean, plain, false);
        let ike_lifetime = scope.required("ike-lifetime", duration::lifetime, show::duration, "");
        let child_lifetime =
            scope.required("child-lifetime", duration::lifetime, show::duration, "");
        let child_bytes = scope.value_or("child-bytes", amount::bytes, amount::show_bytes, None);
        let child_packets =
            scope.value_or("child-packets", amount::packets, amount::show_packets, None);
        let rekey_check = scope.value_or("rekey-check", value::boolean, plain, false);
        Some(Protection {
            ike: ike?,
            esp: esp?,
            allow_weak: allow_weak.value,
            ike_lifetime: ike_lifetime?.value,
            child_lifetime: child_lifetime?.value,
            child_bytes: child_bytes.value,
            child_packets: child_packets.value,
            rekey_test: if rekey_check.value {
                RekeyTest::Once
            } else {
                RekeyTest::Never
            },
        })
    }
}

/// How it is brought and kept up.
struct Upkeep {
    start: Start,
    dpd: Dpd,
    encapsulation: Provided<Encapsulation>,
    fragment_size: u16,
}

impl Upkeep {
    fn read(scope: &mut Scope<'_, '_>) -> Upkeep {
        let start = scope.value_or("start", value::start, show::start, Start::Auto);
        let delay = scope.value_or(
            "dpd.delay",
            duration::interval,
            show::duration,
            default::DPD_DELAY,
        );
        let timeout = scope.value_or(
            "dpd.timeout",
            duration::interval,
            show::duration,
            default::DPD_TIMEOUT,
        );
        let encapsulation = scope.value_or(
            "encapsulation",
            value::encapsulation,
            show::encapsulation,
            Encapsulation::Udp,
        );
        let fragment_size = scope.value_or(
            "fragment-size",
            value::fragment_size,
            plain,
            default::FRAGMENT_SIZE,
        );
        Upkeep {
            start: start.value,
            dpd: Dpd {
                delay: delay.value,
                timeout: timeout.value,
            },
            encapsulation,
            fragment_size: fragment_size.value,
        }
    }
}

/// The name comes first: everything said about the tunnel uses it.
fn name(scope: &mut Scope<'_, '_>) -> Option<Provided<String>> {
    let name = scope.read("name", value::name);
    match &name {
        Some(name) => {
            scope.tunnel = Some(name.value.clone());
            scope.explain("name", quoted(&name.value), name.origin);
        }
        None if !scope.sets("name") => scope.find(Diagnostic::error(
            scope.header(),
            "this tunnel has no `name`",
            "add one: name = \"ali-1\"",
        )),
        None => {}
    }
    name
}

fn device(scope: &mut Scope<'_, '_>, name: Option<&Provided<String>>) -> Option<Provided<String>> {
    if scope.sets("device") {
        return scope.value("device", value::device, quoted);
    }
    let name = name?;
    let device = format!("gl-{}", name.value);
    if device.len() > DEVICE_NAME_MAX {
        let what = format!(
            "the device `{device}` would have {} characters; a device name has at most {DEVICE_NAME_MAX}",
            device.len()
        );
        scope.find(Diagnostic::error(
            name.at.clone(),
            what,
            "shorten the name to 12 characters or set `device`",
        ));
        return None;
    }
    scope.explain("device", quoted(&device), Origin::Follows("name"));
    Some(Provided {
        value: device,
        origin: Origin::Follows("name"),
        at: name.at.clone(),
    })
}

/// The preset the rest of the tunnel is read with. A name that is none is an error, and `generic` stands in so that reading goes on.
fn choose_preset(scope: &mut Scope<'_, '_>) -> &'static Preset {
    let named = scope.value("preset", value::text, quoted);
    let names = || preset::all().iter().map(|preset| preset.name);
    let generic = || preset::find(default::PRESET).expect("the generic preset is embedded");
    let (preset, at) = match named {
        None => {
            if !scope.sets("preset") {
                scope.explain("preset", quoted(&default::PRESET), Origin::Default);
            }
            (generic(), scope.header())
        }
        Some(named) => match preset::find(&named.value) {
            Some(preset) => (preset, named.at),
            None => {
                let advice = match nearest(&named.value, names()) {
                    Some(meant) => format!("did you mean \"{meant}\"?"),
                    None => {
                        let each =
                            |preset: &Preset| format!("{} ({})", preset.name, preset.summary);
                        let all: Vec<String> = preset::all().iter().map(each).collect();
                        format!("the presets are {}", all.join("; "))
                    }
                };
                scope.find(Diagnostic::error(
                    named.at.clone(),
                    format!("there is no preset `{}`", named.value),
                    advice,
                ));
                (generic(), named.at)
            }
        },
    };
    scope.preset = Some((preset, at));
    preset
}

/// `routes`, else `remote` without what would take over the default route.
fn routes(
    scope: &mut Scope<'_, '_>,
    remote: Option<&Provided<Vec<Prefix>>>,
) -> Option<Provided<Vec<Prefix>>> {
    if scope.sets("routes") {
        return scope.value("routes", value::prefixes, |it| list(it));
    }
    let remote = remote?;
    let value: Vec<Prefix> = remote
        .value
        .iter()
        .copied()
        .filter(|prefix| !prefix.is_default())
        .collect();
    if value.is_empty() && !remote.value.is_empty() {
        scope.find(Diagnostic::note(
            remote.at.clone(),
            "no route leads into this tunnel: `remote` is everything",
            "list the networks behind the peer in `routes`, or write `routes = []` if a routing daemon does",
        ));
    }
    scope.explain("routes", list(&value), Origin::Follows("remote"));
    Some(Provided {
        value,
        origin: Origin::Follows("remote"),
        at: remote.at.clone(),
    })
}

fn mtu(scope: &mut Scope<'_, '_>, preset: &Preset) -> (Mtu, Range<usize>) {
    let auto = Mtu::Auto {
        outer: preset.outer_mtu,
        inner: preset.inner_mtu,
    };
    let show = |mtu: &Option<u16>| mtu.map_or_else(|| quoted(&"auto"), |mtu| mtu.to_string());
    let given = scope.value_or("mtu", value::mtu, show, None);
    for (key, bound) in [
        ("outer-mtu", preset.outer_mtu),
        ("inner-mtu", preset.inner_mtu),
    ] {
        if let (None, Some(bound)) = (given.value, bound) {
            scope.explain(key, bound.to_string(), Origin::Preset(preset.name));
        }
    }
    (given.value.map_or(auto, Mtu::Fixed), given.at)
}

fn selectors(prefixes: &[Prefix]) -> Vec<Selector> {
    prefixes.iter().copied().map(Selector::from).collect()
}
