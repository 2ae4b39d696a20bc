//! The keys both gateways share, `psk` and `ppk`: where the file says they are. The place is explained, never the key.

use super::SecretPolicy;
use super::diagnostic::Diagnostic;
use super::file::SpannedValue;
use super::scope::Scope;
use super::secret::{self, KeyKind, KeyLocation};
use super::show::{plain, quoted};
use super::tunnel::Reader;
use super::value::{self, refuse};
use crate::crypto::Secret;
use crate::ike::{Ppk, PpkDemand, Psk};

/// What the keys of a table that names a shared key are called.
struct KeyNames {
    table: &'static str,
    file: &'static str,
    credential: &'static str,
    kind: KeyKind,
}

const PSK: KeyNames = KeyNames {
    table: "psk",
    file: "psk.file",
    credential: "psk.credential",
    kind: KeyKind::Psk,
};

const PPK: KeyNames = KeyNames {
    table: "ppk",
    file: "ppk.file",
    credential: "ppk.credential",
    kind: KeyKind::Ppk,
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
    fn shared_key(
        &self,
        scope: &mut Scope<'_, '_>,
        names: &KeyNames,
        advice: &str,
    ) -> Option<Secret> {
        let table = names.table;
        let file = scope.read(names.file, value::path);
        let credential = scope.read(names.credential, value::credential);
        let (location, at) = match (file, credential) {
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
                (KeyLocation::File(path), file.at)
            }
            (None, Some(credential)) => {
                let shown = quoted(&credential.value);
                scope.explain(names.credential, shown, credential.origin);
                (KeyLocation::Credential(credential.value), credential.at)
            }
            (None, None) => {
                let unusable = scope.sets(names.file)
                    || scope.sets(names.credential)
                    || scope.file.refused(table);
                if !unusable {
                    let tunnel = scope.tunnel.as_deref().unwrap_or_default();
                    let what = match names.kind {
                        KeyKind::Psk => format!("tunnel `{tunnel}` has no `psk`"),
                        KeyKind::Ppk => format!("the `ppk` of tunnel `{tunnel}` names no key"),
                    };
                    scope.find(Diagnostic::error(scope.header(), what, advice));
                }
                return None;
            }
        };
        if self.options.secrets == SecretPolicy::Unread {
            return Some(unknown());
        }
        let credentials = self.options.credentials.as_deref();
        let found = secret::read(&location, names.kind, credentials);
        match (found, self.options.secrets) {
            (Ok(found), _) => {
                for (what, advice) in found.warnings {
                    scope.find(Diagnostic::warning(at.clone(), what, advice));
                }
                Some(found.key)
            }
            (Err(secret::KeyFileError::AccessDenied { what, .. }), SecretPolicy::IfReadable) => {
                scope.find(Diagnostic::note(at, format!("{what}; not checked"), ""));
                Some(unknown())
            }
            (
                Err(
                    secret::KeyFileError::AccessDenied { what, advice }
                    | secret::KeyFileError::Invalid { what, advice },
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
fn id(value: &SpannedValue, findings: &mut Vec<Diagnostic>) -> Option<String> {
    let text = value::text(value, findings)?;
    if text.len() > LONGEST_ID || text.chars().any(char::is_control) {
        let what = "the name of a PPK has at most 255 bytes and no control characters";
        return refuse(findings, value.at.clone(), what, "");
    }
    Some(text)
}
