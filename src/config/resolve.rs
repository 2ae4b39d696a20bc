//! Preset and file become [`Configuration`]: the gateway here, each tunnel by [`super::tunnel`], and what holds between tunnels checked
//! by [`super::lint`].

use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;

use super::diagnostic::{Diagnostic, Severity};
use super::file::ConfigFile;
use super::origin::Origin;
use super::preset::Preset;
use super::scope::{Output, Scope};
use super::settings::{Configuration, GatewaySettings, OffloadMode, TunnelSettings, default};
use super::show::{self, quoted};
use super::tunnel::Reader;
use super::{LoadOptions, lint, value};
use crate::net::Prefix;

/// A tunnel and the places in the file that made it what it is, for findings that concern several keys.
pub struct ResolvedTunnel {
    /// The tunnel.
    pub tunnel: TunnelSettings,
    /// Its preset.
    pub preset: &'static Preset,
    /// Whether broken algorithms are allowed.
    pub allow_weak: bool,
    /// The address the peer knows us by, where the file says it.
    pub address: Option<IpAddr>,
    /// The prefixes its selectors are made of, ours.
    pub local: Vec<Prefix>,
    /// The prefixes its selectors are made of, theirs.
    pub remote: Vec<Prefix>,
    /// Where the file says these things.
    pub at: SourceSpans,
}

/// Where the file says what a tunnel is.
pub struct SourceSpans {
    /// The table.
    pub header: Range<usize>,
    /// `device`, else `name`.
    pub device: Range<usize>,
    /// `peer`.
    pub peer: Range<usize>,
    /// What decided the local address.
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
    /// `mtu`, where the file sets it.
    pub mtu: Range<usize>,
}

/// Resolves a whole file. `None` when something needed is missing; the findings say what.
pub fn resolve(
    file: &ConfigFile,
    folder: &Path,
    options: &LoadOptions,
    output: &mut Output<'_>,
) -> Option<Configuration> {
    let gateway = gateway(&mut Scope {
        tunnel: None,
        file: &file.gateway,
        preset: None,
        output,
    });
    if file.tunnels.is_empty() && !file.broken {
        output.findings.push(Diagnostic::error(
            None,
            "there is no tunnel",
            "add a `[[tunnel]]` with name, peer, preset, psk, local and remote",
        ));
    }
    let reader = Reader {
        gateway: &gateway,
        table: &file.gateway,
        folder,
        options,
    };
    let tunnels = file.tunnels.iter().enumerate();
    let resolved: Vec<ResolvedTunnel> = tunnels
        .filter_map(|(index, table)| reader.tunnel(index, table, output))
        .collect();
    lint::names(&file.tunnels, &mut output.findings);
    lint::tunnels(&resolved, &gateway, &mut output.findings);
    let failed = output
        .findings
        .iter()
        .any(|finding| finding.severity == Severity::Error);
    (!failed).then(|| Configuration {
        gateway,
        tunnels: resolved
            .into_iter()
            .map(|resolved| resolved.tunnel)
            .collect(),
    })
}

fn gateway(scope: &mut Scope<'_, '_>) -> GatewaySettings {
    let address = scope.value("address", value::host_address, quoted);
    let listen = scope.value("listen", value::address, quoted);
    if !scope.sets("listen") {
        scope.explain(
            "listen",
            "any address of the peer's family",
            Origin::Default,
        );
    }
    let control = scope.value_or(
        "control",
        value::socket_path,
        |path| quoted(&path.display()),
        default::CONTROL.into(),
    );
    let offload = scope.value_or("offload", value::offload, show::offload, OffloadMode::Auto);
    GatewaySettings {
        address: address.map(|given| given.value),
        listen: listen.map(|given| given.value),
        control: control.value,
        offload: offload.value,
    }
}
