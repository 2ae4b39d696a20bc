//! One tunnel: its keys in the order of the table of keys, and the values derived from other keys.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::diagnostic::Diagnostic;
use super::endpoints::Endpoints;
use super::file::ConfigTable;
use super::preset::{self, Preset};
use super::psk::KeyReader;
use super::quantity;
use super::scope::{Origin, Output, Provided, Scope};
use super::secret::LoadOptions;
use super::secret::MissingSecret;
use super::settings::{GatewaySettings, InsideAddress, Mtu, TunnelSettings, default};
use super::value::{self, DEVICE_NAME_MAX, keyword, list, quoted};
use crate::crypto::{EspProposal, IkeProposal};
use crate::ike::{self, Dpd, Encapsulation, Ppk, Psk, RekeyCheck, SelectorMode, Start};
use crate::net::{Dscp, Policy, Prefix, Selector};
use crate::paths::FailClosed;

/// A resolved tunnel, with the spans and values that the lints need.
pub struct ResolvedTunnel {
    /// Settings of the tunnel.
    pub settings: TunnelSettings,
    /// Preset of the tunnel.
    pub preset: &'static Preset,
    /// Whether broken algorithms are allowed.
    pub allow_weak: bool,
    /// Address by which the peer knows this machine, if the file says so.
    pub address: Option<IpAddr>,
    /// Local prefixes of the traffic selectors.
    pub local: Vec<Prefix>,
    /// Remote prefixes of the traffic selectors.
    pub remote: Vec<Prefix>,
    /// Spans of the keys.
    pub spans: SourceSpans,
}

/// Spans of the keys that made a tunnel.
pub struct SourceSpans {
    /// The table's header.
    pub header: Range<usize>,
    /// `device`, else `name`.
    pub device: Range<usize>,
    /// `peer`.
    pub peer: Range<usize>,
    /// The key that decided the local address.
    pub local_address: Range<usize>,
    /// `local`.
    pub local: Range<usize>,
    /// `remote`.
    pub remote: Range<usize>,
    /// `routes`, else `remote`.
    pub routes: Range<usize>,
    /// `ike`.
    pub ike: Range<usize>,
    /// `esp`.
    pub esp: Range<usize>,
    /// `encapsulation`.
    pub encapsulation: Range<usize>,
    /// `mtu`, if the file sets it.
    pub mtu: Range<usize>,
}

/// Reader of the tunnels of a file.
pub struct TunnelReader<'a> {
    /// Settings of the gateway.
    pub gateway: &'a GatewaySettings,
    /// Table of the gateway.
    pub gateway_table: &'a ConfigTable,
    /// Base of relative paths.
    pub folder: &'a Path,
    /// Options of the load.
    pub options: &'a LoadOptions,
}

impl TunnelReader<'_> {
    /// Reads one tunnel completely, valid or not; `None` if a required part is invalid.
    pub fn read(
        &self,
        index: usize,
        table: &ConfigTable,
        output: &mut Output<'_>,
    ) -> Option<ResolvedTunnel> {
        let mut scope = Scope {
            tunnel: Some(format!("#{}", index + 1)),
            table,
            preset: None,
            output,
        };
        let keys = KeyReader {
            folder: self.folder,
            options: self.options,
            missing: RefCell::default(),
        };
        let name = name(&mut scope);
        let device = device(&mut scope, name.as_ref());
        let preset = select_preset(&mut scope);
        let endpoints = Endpoints::read(&mut scope, self.gateway, self.gateway_table);
        let psk = keys.psk(&mut scope);
        let ppk = keys.ppk(&mut scope);
        let traffic = TrafficKeys::read(&mut scope);
        let sa = SaKeys::read(&mut scope);
        let connection = ConnectionKeys::read(&mut scope);
        let packets = PacketKeys::read(&mut scope, preset);
        let parts = TunnelParts {
            header: scope.header(),
            name: name?.value,
            device: device?,
            preset,
            endpoints: endpoints?,
            psk,
            ppk,
            missing_secret: keys.missing.take(),
            traffic: traffic?,
            sa: sa?,
            connection,
            packets,
        };
        Some(parts.resolve())
    }
}

/// The parts of one tunnel, all valid.
struct TunnelParts {
    header: Range<usize>,
    name: String,
    device: Provided<String>,
    preset: &'static Preset,
    endpoints: Endpoints,
    psk: Psk,
    missing_secret: Option<MissingSecret>,
    ppk: Option<Ppk>,
    traffic: TrafficKeys,
    sa: SaKeys,
    connection: ConnectionKeys,
    packets: PacketKeys,
}

impl TunnelParts {
    fn resolve(self) -> ResolvedTunnel {
        ResolvedTunnel {
            spans: self.spans(),
            preset: self.preset,
            allow_weak: self.sa.allow_weak,
            address: self.endpoints.address,
            local: self.traffic.local.value.clone(),
            remote: self.traffic.remote.value.clone(),
            settings: self.settings(),
        }
    }

    fn spans(&self) -> SourceSpans {
        SourceSpans {
            header: self.header.clone(),
            device: self.device.span.clone(),
            peer: self.endpoints.peer.span.clone(),
            local_address: self.endpoints.local.span.clone(),
            local: self.traffic.local.span.clone(),
            remote: self.traffic.remote.span.clone(),
            routes: self.traffic.routes.span.clone(),
            ike: self.sa.ike.span.clone(),
            esp: self.sa.esp.span.clone(),
            encapsulation: self.connection.encapsulation.span.clone(),
            mtu: self.packets.mtu_span.clone(),
        }
    }

    fn settings(self) -> TunnelSettings {
        let selectors = |prefixes: Vec<Prefix>| prefixes.into_iter().map(Selector::from).collect();
        let ike = ike::Settings {
            name: self.name.clone(),
            peer: self.endpoints.peer.value,
            local: self.endpoints.local.value,
            id: self.endpoints.id,
            peer_id: self.endpoints.peer_id,
            psk: self.psk,
            ppk: self.ppk,
            ike: self.sa.ike.value,
            esp: self.sa.esp.value,
            policy: Policy {
                local: selectors(self.traffic.local.value),
                remote: selectors(self.traffic.remote.value),
            },
            ike_lifetime: self.sa.ike_lifetime,
            child_lifetime: self.sa.child_lifetime,
            start: self.connection.start,
            dpd: self.connection.dpd,
            encapsulation: self.connection.encapsulation.value,
            fragment_size: self.connection.fragment_size,
            rekey_check: self.sa.rekey_check,
            selectors: self.traffic.selectors,
        };
        TunnelSettings {
            name: self.name,
            device: self.device.value,
            preset: self.preset.name,
            ike,
            routes: self.traffic.routes.value,
            metric: self.traffic.metric,
            mtu: self.packets.mtu,
            inside: self.packets.inside,
            child_bytes: self.sa.child_bytes,
            child_packets: self.sa.child_packets,
            replay_window: self.packets.replay_window,
            dscp: self.packets.dscp,
            missing_secret: self.missing_secret,
            fail_closed: self.traffic.fail_closed,
        }
    }
}

/// Keys about the traffic of a tunnel.
struct TrafficKeys {
    local: Provided<Vec<Prefix>>,
    remote: Provided<Vec<Prefix>>,
    selectors: SelectorMode,
    routes: Provided<Vec<Prefix>>,
    metric: u32,
    fail_closed: FailClosed,
}

impl TrafficKeys {
    fn read(scope: &mut Scope<'_, '_>) -> Option<TrafficKeys> {
        let advice = "write the networks behind each gateway: local = [\"192.168.1.0/24\"], remote = [\"172.16.1.0/24\"]";
        let local = scope.required("local", &value::PREFIXES, advice);
        let remote = scope.required("remote", &value::PREFIXES, advice);
        let selectors = scope.value_or("selectors", &keyword(), SelectorMode::Together);
        let routes = routes(scope, remote.as_ref());
        let metric = scope.value_or("metric", &value::METRIC, default::METRIC);
        let fail_closed = scope.value_or("fail-closed", &value::BOOLEAN, true);
        Some(TrafficKeys {
            local: local?,
            remote: remote?,
            selectors: selectors.value,
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

/// Keys about the SAs: proposals and lifetimes.
struct SaKeys {
    ike: Provided<Vec<IkeProposal>>,
    esp: Provided<Vec<EspProposal>>,
    allow_weak: bool,
    ike_lifetime: Duration,
    child_lifetime: Duration,
    child_bytes: Option<u64>,
    child_packets: Option<u64>,
    rekey_check: RekeyCheck,
}

impl SaKeys {
    fn read(scope: &mut Scope<'_, '_>) -> Option<SaKeys> {
        let ike = scope.required("ike", &value::IKE_PROPOSALS, "");
        let esp = scope.required("esp", &value::ESP_PROPOSALS, "");
        let allow_weak = scope.value_or("allow-weak", &value::BOOLEAN, false);
        let ike_lifetime = scope.required("ike-lifetime", &quantity::LIFETIME, "");
        let child_lifetime = scope.required("child-lifetime", &quantity::LIFETIME, "");
        let child_bytes = scope.value_or("child-bytes", &quantity::BYTES, None);
        let child_packets = scope.value_or("child-packets", &quantity::PACKETS, None);
        let rekey_check = scope.value_or("rekey-check", &value::BOOLEAN, false);
        Some(SaKeys {
            ike: ike?,
            esp: esp?,
            allow_weak: allow_weak.value,
            ike_lifetime: ike_lifetime?.value,
            child_lifetime: child_lifetime?.value,
            child_bytes: child_bytes.value,
            child_packets: child_packets.value,
            rekey_check: if rekey_check.value {
                RekeyCheck::Once
            } else {
                RekeyCheck::Never
            },
        })
    }
}

/// Keys about connecting and staying connected.
struct ConnectionKeys {
    start: Start,
    dpd: Dpd,
    encapsulation: Provided<Encapsulation>,
    fragment_size: u16,
}

impl ConnectionKeys {
    fn read(scope: &mut Scope<'_, '_>) -> ConnectionKeys {
        let start = scope.value_or("start", &keyword(), Start::Auto);
        let delay = scope.value_or("dpd.delay", &quantity::INTERVAL, default::DPD_DELAY);
        let timeout = scope.value_or("dpd.timeout", &quantity::INTERVAL, default::DPD_TIMEOUT);
        let encapsulation = scope.value_or("encapsulation", &keyword(), Encapsulation::Udp);
        let fragment_size = scope.value_or(
            "fragment-size",
            &value::FRAGMENT_SIZE,
            default::FRAGMENT_SIZE,
        );
        ConnectionKeys {
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

/// Keys about the tunnel's packets and device.
struct PacketKeys {
    mtu: Mtu,
    mtu_span: Range<usize>,
    inside: Vec<InsideAddress>,
    replay_window: u32,
    dscp: Dscp,
}

impl PacketKeys {
    fn read(scope: &mut Scope<'_, '_>, preset: &Preset) -> PacketKeys {
        let mtu = scope.value_or("mtu", &value::MTU, None);
        let bounds = [
            ("outer-mtu", preset.outer_mtu),
            ("inner-mtu", preset.inner_mtu),
        ];
        for (key, bound) in bounds {
            if let (None, Some(bound)) = (mtu.value, bound) {
                scope.record(key, bound.to_string(), Origin::Preset(preset.name));
            }
        }
        let auto = Mtu::Auto {
            outer: preset.outer_mtu,
            inner: preset.inner_mtu,
        };
        let inside = scope.value("inside", &value::INSIDE);
        let replay_window = scope.value_or(
            "replay-window",
            &value::REPLAY_WINDOW,
            default::REPLAY_WINDOW,
        );
        let dscp = scope.value_or("dscp", &keyword(), Dscp::Copied);
        PacketKeys {
            mtu: mtu.value.map_or(auto, Mtu::Fixed),
            mtu_span: mtu.span,
            inside: inside.map(|provided| provided.value).unwrap_or_default(),
            replay_window: replay_window.value,
            dscp: dscp.value,
        }
    }
}

/// Reads `name` first, since every other finding about the tunnel uses the name.
fn name(scope: &mut Scope<'_, '_>) -> Option<Provided<String>> {
    let name = scope.read("name", &value::NAME);
    match &name {
        Some(name) => {
            scope.tunnel = Some(name.value.clone());
            scope.record("name", quoted(&name.value), name.origin);
        }
        None if !scope.sets("name") => scope.report(Diagnostic::error(
            scope.header(),
            "the tunnel has no `name`",
            "add one: name = \"ali-1\"",
        )),
        None => {}
    }
    name
}

/// Reads `device`. The default is derived from the name.
fn device(scope: &mut Scope<'_, '_>, name: Option<&Provided<String>>) -> Option<Provided<String>> {
    if scope.sets("device") {
        return scope.value("device", &value::DEVICE);
    }
    let name = name?;
    let device = format!("gl-{}", name.value);
    let length = device.len();
    if length > DEVICE_NAME_MAX {
        let what = format!(
            "the default device name `{device}` has {length} characters; a device name has at most {DEVICE_NAME_MAX}"
        );
        let advice = "shorten the name to 12 characters or set `device`";
        scope.report(Diagnostic::error(name.span.clone(), what, advice));
        return None;
    }
    let origin = Origin::DerivedFrom("name");
    scope.record("device", quoted(&device), origin);
    Some(Provided {
        value: device,
        origin,
        span: name.span.clone(),
    })
}

/// Selects the preset of the scope. An unknown name is an error, and the rest of the tunnel is read with `generic`.
fn select_preset(scope: &mut Scope<'_, '_>) -> &'static Preset {
    let generic = || preset::find(default::PRESET).expect("the generic preset is embedded");
    let (preset, span) = match scope.value("preset", &value::TEXT) {
        None => {
            if !scope.sets("preset") {
                scope.record("preset", quoted(&default::PRESET), Origin::Default);
            }
            (generic(), scope.header())
        }
        Some(name) => {
            let preset = preset::find(&name.value).unwrap_or_else(|| {
                let (what, advice) = preset::unknown(&name.value);
                scope.report(Diagnostic::error(name.span.clone(), what, advice));
                generic()
            });
            (preset, name.span)
        }
    };
    scope.preset = Some((preset, span));
    preset
}

/// Reads `routes`. The default is `remote` without a default route.
fn routes(
    scope: &mut Scope<'_, '_>,
    remote: Option<&Provided<Vec<Prefix>>>,
) -> Option<Provided<Vec<Prefix>>> {
    if scope.sets("routes") {
        return scope.value("routes", &value::PREFIXES);
    }
    let remote = remote?;
    let mut value = remote.value.clone();
    value.retain(|prefix| !prefix.is_default());
    if value.is_empty() && !remote.value.is_empty() {
        scope.report(Diagnostic::note(
            remote.span.clone(),
            "no routes are installed for this tunnel, since `remote` is a default route",
            "list the networks behind the peer in `routes`, or write `routes = []` if a routing daemon installs them",
        ));
    }
    let origin = Origin::DerivedFrom("remote");
    scope.record("routes", list(&value), origin);
    Some(Provided {
        value,
        origin,
        span: remote.span.clone(),
    })
}
