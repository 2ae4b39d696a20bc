//! One tunnel: every key read once, in the order of the table of keys, and what follows from other keys filled in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::Path;

use super::diagnostic::Diagnostic;
use super::duration::{self, Span};
use super::file::Table;
use super::origin::Origin;
use super::preset::{self, Preset};
use super::resolve::{Places, Resolved};
use super::scope::{Given, Output, Scope};
use super::secret::{self, Place};
use super::settings::{FailClosed, Gateway, Mtu, Tunnel, default};
use super::show::{self, list, plain, quoted};
use super::suggest::nearest;
use super::value::{self, DEVICE_NAME_MAX};
use super::{Environment, Secrets, proposals};
use crate::crypto::Secret;
use crate::ike::{self, Dpd, Encapsulation, Identity, Peer, PeerId, Psk, Start};
use crate::net::{Policy, Prefix, Selector};

/// What every tunnel is read against.
pub struct Reader<'a> {
    pub gateway: &'a Gateway,
    pub table: &'a Table,
    pub folder: &'a Path,
    pub environment: &'a Environment,
}

impl Reader<'_> {
    /// Reads one tunnel, all of it, whatever is wrong with parts of it.
    pub fn tunnel(&self, index: usize, table: &Table, output: &mut Output<'_>) -> Option<Resolved> {
        let mut scope = Scope {
            tunnel: Some(format!("#{}", index + 1)),
            file: table,
            preset: None,
            output,
        };
        let header = scope.header();

        // Who and where.
        let name = name(&mut scope);
        let device = device(&mut scope, name.as_ref());
        let preset = choose_preset(&mut scope);
        let peer = scope.required(
            "peer",
            value::peer,
            quoted,
            "write the address of the cloud's gateway: peer = \"203.0.113.7\"",
        );
        let local_address = self.local_address(&mut scope, peer.as_ref().map(|peer| &peer.value));
        let id = self.identity(&mut scope);
        let peer_id = scope.value_or("peer-id", value::peer_id, show::peer_id, PeerId::Any);
        let psk = self.psk(&mut scope);

        // What goes through.
        let advice = "write the networks behind each gateway: local = [\"192.168.1.0/24\"], remote = [\"172.16.1.0/24\"]";
        let local = scope.required("local", value::prefixes, |it| list(it), advice);
        let remote = scope.required("remote", value::prefixes, |it| list(it), advice);
        let routes = routes(&mut scope, remote.as_ref());
        let metric = scope.value_or("metric", value::metric, plain, default::METRIC);
        let fail_closed = scope.value_or("fail-closed", value::boolean, plain, true);

        // How it is protected.
        let ike = scope.required("ike", proposals::ike, |it| list(it), "");
        let esp = scope.required("esp", proposals::esp, |it| list(it), "");
        let allow_weak = scope.value_or("allow-weak", value::boolean, plain, false);
        let ike_lifetime = scope.required(
            "ike-lifetime",
            duration::lifetime,
            |it| quoted(&Span(*it)),
            "",
        );
        let child_lifetime = scope.required(
            "child-lifetime",
            duration::lifetime,
            |it| quoted(&Span(*it)),
            "",
        );
        scope.value_or("child-bytes", value::no_limit, |()| quoted(&"none"), ());
        scope.value_or("child-packets", value::no_limit, |()| quoted(&"none"), ());
        scope.value_or("rekey-check", value::rekey_check, plain, false);

        // How it is kept up, and what it looks like here.
        let start = scope.value_or("start", value::start, show::start, Start::Auto);
        let delay = scope.value_or(
            "dpd.delay",
            duration::interval,
            |it| quoted(&Span(*it)),
            default::DPD_DELAY,
        );
        let timeout = scope.value_or(
            "dpd.timeout",
            duration::interval,
            |it| quoted(&Span(*it)),
            default::DPD_TIMEOUT,
        );
        let encapsulation = scope.value_or(
            "encapsulation",
            value::encapsulation,
            show::encapsulation,
            Encapsulation::Udp,
        );
        let (mtu, mtu_at) = mtu(&mut scope, preset);
        let inside = scope.value("inside", value::inside, show::inside);
        let replay_window = scope.value_or(
            "replay-window",
            value::replay_window,
            plain,
            default::REPLAY_WINDOW,
        );

        let (name, device, peer, local, remote, ike, esp) =
            (name?, device?, peer?, local?, remote?, ike?, esp?);
        let (local_address, routes) = (local_address?, routes?);
        let fail_closed = if fail_closed.value {
            FailClosed::Hold
        } else {
            FailClosed::Leak
        };
        let at = Places {
            header,
            name: name.at,
            device: device.at,
            peer: peer.at,
            local_address: local_address.at,
            local: local.at,
            remote: remote.at,
            routes: routes.at,
            ike: ike.at,
            esp: esp.at,
            mtu: mtu_at,
        };
        let tunnel = Tunnel {
            ike: ike::Settings {
                name: name.value.clone(),
                peer: peer.value,
                local: local_address.value,
                // Without these two an error is on record, and these settings go no further than the lints.
                id: id.unwrap_or(Identity::KeyId(Vec::new())),
                peer_id: peer_id.value,
                psk: psk.unwrap_or_else(unknown_psk),
                ike: ike.value,
                esp: esp.value,
                policy: Policy {
                    local: selectors(&local.value),
                    remote: selectors(&remote.value),
                },
                ike_lifetime: ike_lifetime?.value,
                child_lifetime: child_lifetime?.value,
                start: start.value,
                dpd: Dpd {
                    delay: delay.value,
                    timeout: timeout.value,
                },
                encapsulation: encapsulation.value,
            },
            name: name.value,
            device: device.value,
            preset: preset.name,
            routes: routes.value,
            metric: metric.value,
            mtu,
            inside: inside.map(|given| given.value),
            replay_window: replay_window.value,
            fail_closed,
        };
        Some(Resolved {
            tunnel,
            preset,
            allow_weak: allow_weak.value,
            local: local.value,
            remote: remote.value,
            at,
        })
    }

    /// `local-address`, else the gateway's `listen`, else any address of the peer's family.
    fn local_address(
        &self,
        scope: &mut Scope<'_, '_>,
        peer: Option<&Peer>,
    ) -> Option<Given<IpAddr>> {
        if scope.sets("local-address") {
            return scope.value("local-address", value::address, quoted);
        }
        let (value, origin) = match (self.gateway.listen, peer, self.gateway.address) {
            (Some(listen), _, _) => (listen, Origin::Follows("listen")),
            (None, Some(Peer::Address(IpAddr::V6(_))), _) => {
                (Ipv6Addr::UNSPECIFIED.into(), Origin::Follows("peer"))
            }
            (None, Some(Peer::Address(IpAddr::V4(_))), _) => {
                (Ipv4Addr::UNSPECIFIED.into(), Origin::Follows("peer"))
            }
            (None, _, Some(IpAddr::V6(_))) => {
                (Ipv6Addr::UNSPECIFIED.into(), Origin::Follows("address"))
            }
            (None, _, _) => (Ipv4Addr::UNSPECIFIED.into(), Origin::Default),
        };
        scope.explain("local-address", quoted(&value), origin);
        Some(Given {
            value,
            origin,
            at: scope.header(),
        })
    }

    /// `id`, else the tunnel's `address`, else the gateway's.
    fn identity(&self, scope: &mut Scope<'_, '_>) -> Option<Identity> {
        let own = scope.value("address", value::host_address, quoted);
        if scope.sets("id") {
            return scope
                .value("id", value::identity, quoted)
                .map(|given| given.value);
        }
        if scope.sets("address") && own.is_none() {
            return None;
        }
        let Some(address) = own.map(|given| given.value).or(self.gateway.address) else {
            // One `address` under `[gateway]` serves every tunnel, so that is where it is missing, once. One that is there and
            // unusable was complained about already.
            if self.table.entry("address").is_some() {
                return None;
            }
            let gateway = Some(self.table.header.clone()).filter(|header| !header.is_empty());
            scope.find(Diagnostic::error(
                gateway,
                "nothing says which address the cloud knows this machine by",
                "set `address` under `[gateway]` to the public address; it is also our IKE identity",
            ));
            return None;
        };
        scope.explain("id", quoted(&address), Origin::Follows("address"));
        Some(Identity::from(address))
    }

    /// The key, from wherever the file says it is. Its place is explained, never the key.
    fn psk(&self, scope: &mut Scope<'_, '_>) -> Option<Psk> {
        let file = scope.read("psk.file", value::path);
        let credential = scope.read("psk.credential", value::credential);
        let (place, at) = match (file, credential) {
            (Some(file), Some(_)) => {
                scope.find(Diagnostic::error(
                    file.at,
                    "`psk` names both a file and a credential",
                    "keep one of them",
                ));
                return None;
            }
            (Some(file), None) => {
                let path = self.folder.join(file.value);
                scope.explain("psk.file", quoted(&path.display()), file.origin);
                (Place::File(path), file.at)
            }
            (None, Some(credential)) => {
                scope.explain(
                    "psk.credential",
                    quoted(&credential.value),
                    credential.origin,
                );
                (Place::Credential(credential.value), credential.at)
            }
            (None, None) => {
                let unusable = scope.sets("psk.file")
                    || scope.sets("psk.credential")
                    || scope.file.refused("psk");
                if !unusable {
                    let what = format!(
                        "tunnel `{}` has no `psk`",
                        scope.tunnel.as_deref().unwrap_or_default()
                    );
                    let advice = "make a key with `groundlink psk`, put it into a file and write psk = { file = \"/etc/groundlink/psk/NAME\" }";
                    scope.find(Diagnostic::error(scope.header(), what, advice));
                }
                return None;
            }
        };
        match (
            secret::read(&place, self.environment.credentials.as_deref()),
            self.environment.secrets,
        ) {
            (Ok(found), _) => {
                for (what, advice) in found.doubts {
                    scope.find(Diagnostic::warning(at.clone(), what, advice));
                }
                Some(found.psk)
            }
            (Err(secret::Problem::NotForUs { what, .. }), Secrets::IfReadable) => {
                scope.find(Diagnostic::note(at, format!("{what}; not checked"), ""));
                Some(unknown_psk())
            }
            (
                Err(
                    secret::Problem::NotForUs { what, advice }
                    | secret::Problem::Unusable { what, advice },
                ),
                _,
            ) => {
                scope.find(Diagnostic::error(at, what, advice));
                None
            }
        }
    }
}

/// The name comes first: everything said about the tunnel uses it.
fn name(scope: &mut Scope<'_, '_>) -> Option<Given<String>> {
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

fn device(scope: &mut Scope<'_, '_>, name: Option<&Given<String>>) -> Option<Given<String>> {
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
    Some(Given {
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
    remote: Option<&Given<Vec<Prefix>>>,
) -> Option<Given<Vec<Prefix>>> {
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
    Some(Given {
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

/// Stands in where a key cannot be had and nobody will use it.
fn unknown_psk() -> Psk {
    Psk(Secret::new(Vec::new()))
}

fn selectors(prefixes: &[Prefix]) -> Vec<Selector> {
    prefixes.iter().copied().map(Selector::from).collect()
}
