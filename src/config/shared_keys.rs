//! The keys both gateways share, `psk` and `ppk`: where the file says they are. The place is explained, never the key.

use super::Secrets;
use super::diagnostic::Diagnostic;
use super::file::Located;
use super::scope::Scope;
use super::secret::{self, Kind, Place};
use super::show::{plain, quoted};
use super::tunnel::Reader;
use super::value::{self, refuse};
use crate::crypto::Secret;
use crate::ike::{Ppk, PpkDemand, Psk};

/// What the keys of a table that names a shared key are called.
struct Names {
    table: &'static str,
    file: &'static str,
    credential: &'static str,
    kind: Kind,
}

const PSK: Names = Names {
    table: "psk",
    file: "psk.file",
    credential: "psk.credential",
    kind: Kind::Psk,
};

const PPK: Names = Names {
    table: "ppk",
    file: "ppk.file",
    credential: "ppk.credential",
    kind: Kind::Ppk,
};

impl Reader<'_> {
    /// The pre-shared key, which every tunnel has.
    pub fn psk(&self, scope: &mut Scope<'_, '_>) -> Option<Psk> {
        let advice = "make a key with `groundlink psk`, put it into a file and write psk = { file = \"/etc/groundlink/psk/NAME\" }";
        self.shared_key(scope, &PSK, advice).map(Psk)
    }

    /// The post-quantum pre-shared key, of a tunnel that names one.
    pub fn ppk(&self, scope: &mut Scope<'_, '_>) -> Option<Ppk> {
        let named = ["ppk.id", PPK.file, PPK.credential, "ppk.required"]
            .iter()
            .any(|key| scope.sets(key));
        if !named {
            return None;
        }
        let advice = "name the PPK as the peer does: ppk = { id = \"…\", file = \"…\" }";
        let id = scope.required("ppk.id", id, quoted, advice);
        let advice = "make a key with `groundlink psk`, put it into a file and write ppk = { id = \"…\", file = \"…\" }";
        let key = self.shared_key(scope, &PPK, advice);
        let required = scope.value_or("ppk.required", value::boolean, plain, true);
        Some(Ppk {
            id: id?.value,
            key: key?,
            demand: if required.value {
                PpkDemand::Required
            } else {
                PpkDemand::Optional
            },
        })
    }

    /// A key, from wherever the file says it is.
    fn shared_key(&self, scope: &mut Scope<'_, '_>, names: &Names, advice: &str) -> Option<Secret> {
        let table = names.table;
        let file = scope.read(names.file, value::path);
        let credential = scope.read(names.credential, value::credential);
        let (place, at) = match (file, credential) {
            (Some(file), Some(_)) => {
                scope.find(Diagnostic::error(
                    file.at,
                    format!("`{table}` names both a file and a credential"),
                    "keep one of them",
                ));
                return None;
            }
            (Some(file), None) => {
                let path = self.folder.join(file.value);
                scope.explain(names.file, quoted(&path.display()), file.origin);
                (Place::File(path), file.at)
            }
            (None, Some(credential)) => {
                let shown = quoted(&credential.value);
                scope.explain(names.credential, shown, credential.origin);
                (Place::Credential(credential.value), credential.at)
            }
            (None, None) => {
                let unusable = scope.sets(names.file)
                    || scope.sets(names.credential)
                    || scope.file.refused(table);
                if !unusable {
                    let tunnel = scope.tunnel.as_deref().unwrap_or_default();
                    let what = match names.kind {
                        Kind::Psk => format!("tunnel `{tunnel}` has no `psk`"),
                        Kind::Ppk => format!("the `ppk` of tunnel `{tunnel}` names no key"),
                    };
                    scope.find(Diagnostic::error(scope.header(), what, advice));
                }
                return None;
            }
        };
        if self.environment.secrets == Secrets::Unread {
            return Some(unknown());
        }
        let credentials = self.environment.credentials.as_deref();
        let found = secret::read(&place, names.kind, credentials);
        match (found, self.environment.secrets) {
            (Ok(found), _) => {
                for (what, advice) in found.doubts {
                    scope.find(Diagnostic::warning(at.clone(), what, advice));
                }
                Some(found.key)
            }
            (Err(secret::Problem::NotForUs { what, .. }), Secrets::IfReadable) => {
                scope.find(Diagnostic::note(at, format!("{what}; not checked"), ""));
                Some(unknown())
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

/// Stands in where a key cannot be had and nobody will use it.
pub fn unknown() -> Secret {
    Secret::new(Vec::new())
}

/// A longer name than this fits no message in comfort, and no person reads it.
const LONGEST_ID: usize = 255;

/// The name of a PPK: the same bytes on both sides.
fn id(value: &Located, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let text = value::text(value, findings)?;
    if text.len() > LONGEST_ID || text.chars().any(char::is_control) {
        let what = "the name of a PPK has at most 255 bytes and no control characters";
        return refuse(findings, value.at.clone(), what, "");
    }
    Some(text)
}
