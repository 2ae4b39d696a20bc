//! The keys `psk` and `ppk`: location of the pre-shared keys. The location is recorded, never the key.

use std::cell::RefCell;
use std::path::Path;

use super::diagnostic::Diagnostic;
use super::key_text::{KeyFileError, KeyFinding, KeyKind};
use super::scope::{Origin, Scope};
use super::secret::{KeyLocation, KeySource, LoadOptions, MissingSecret, SecretPolicy};
use super::value::{self, quoted};
use crate::crypto::Secret;
use crate::ike::{Ppk, PpkDemand, Psk};

/// Names of the keys that locate a pre-shared key.
struct KeyNames {
    table: &'static str,
    file: &'static str,
    credential: &'static str,
    encoding: &'static str,
    kind: KeyKind,
    /// Advice if neither `file` nor `credential` is set.
    advice: &'static str,
}

const PSK: KeyNames = KeyNames {
    table: "psk",
    file: "psk.file",
    credential: "psk.credential",
    encoding: "psk.encoding",
    kind: KeyKind::Psk,
    advice: "generate a key with `groundlink psk`, store it in a file and write psk = { file = \"/etc/groundlink/psk/NAME\" }",
};

const PPK: KeyNames = KeyNames {
    table: "ppk",
    file: "ppk.file",
    credential: "ppk.credential",
    encoding: "ppk.encoding",
    kind: KeyKind::Ppk,
    advice: "generate a key with `groundlink psk`, store it in a file and write ppk = { id = \"…\", file = \"…\" }",
};

/// Reader of the pre-shared keys of tunnels.
pub struct KeyReader<'a> {
    /// Base of relative paths.
    pub folder: &'a Path,
    /// Options of the load.
    pub options: &'a LoadOptions,
    /// Why a key of this tunnel could not be read, with [`SecretPolicy::Deferred`].
    pub missing: RefCell<Option<MissingSecret>>,
}

impl KeyReader<'_> {
    /// Reads the pre-shared key, which is required. After an error the key is empty.
    pub fn psk(&self, scope: &mut Scope<'_, '_>) -> Psk {
        Psk(self.key(scope, &PSK).unwrap_or_else(empty))
    }

    /// Reads the post-quantum pre-shared key (RFC 8784), which is optional.
    pub fn ppk(&self, scope: &mut Scope<'_, '_>) -> Option<Ppk> {
        let keys = [
            "ppk.id",
            PPK.file,
            PPK.credential,
            PPK.encoding,
            "ppk.required",
        ];
        if !keys.iter().any(|key| scope.sets(key)) {
            return None;
        }
        let advice = "write the PPK's name as the peer has it: ppk = { id = \"…\", file = \"…\" }";
        let id = scope.required("ppk.id", &value::PPK_ID, advice);
        let key = self.key(scope, &PPK);
        let required = scope.value_or("ppk.required", &value::BOOLEAN, true);
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

    /// Locates and reads a key.
    fn key(&self, scope: &mut Scope<'_, '_>, names: &KeyNames) -> Option<Secret> {
        let file = scope.read(names.file, &value::PATH);
        let credential = scope.read(names.credential, &value::CREDENTIAL);
        let (location, span) = match (file, credential) {
            (Some(file), Some(_)) => {
                let what = format!("`{}` names both a file and a credential", names.table);
                scope.report(Diagnostic::error(file.span, what, "remove one of the two"));
                return None;
            }
            (Some(file), None) => {
                let path = self.folder.join(file.value);
                scope.record(names.file, quoted(&path.display()), file.origin);
                (KeyLocation::File(path), file.span)
            }
            (None, Some(credential)) => {
                let shown = quoted(&credential.value);
                scope.record(names.credential, shown, credential.origin);
                (KeyLocation::Credential(credential.value), credential.span)
            }
            (None, None) => {
                report_missing(scope, names);
                return None;
            }
        };
        let encoding = scope.value(names.encoding, &value::keyword());
        if encoding.is_none() {
            if scope.sets(names.encoding) {
                return None;
            }
            scope.record(
                names.encoding,
                "by the first bytes of the file",
                Origin::Default,
            );
        }
        if self.options.secrets == SecretPolicy::Unread {
            return Some(empty());
        }
        let source = KeySource {
            location: &location,
            kind: names.kind,
            encoding: encoding.map(|provided| provided.value),
        };
        match source.read(self.options) {
            Ok(found) => {
                for KeyFinding {
                    is_warning,
                    what,
                    advice,
                } in found.findings
                {
                    scope.report(match is_warning {
                        true => Diagnostic::warning(span.clone(), what, advice),
                        false => Diagnostic::note(span.clone(), what, advice),
                    });
                }
                Some(found.key)
            }
            Err(KeyFileError::AccessDenied { what, .. })
                if matches!(
                    self.options.secrets,
                    SecretPolicy::IfReadable | SecretPolicy::AsService(_)
                ) =>
            {
                let what = format!("{what}; the key was not checked");
                scope.report(Diagnostic::note(span, what, ""));
                Some(empty())
            }
            Err(
                KeyFileError::AccessDenied { what, advice }
                | KeyFileError::Invalid { what, advice },
            ) if self.options.secrets == SecretPolicy::Deferred => {
                scope.report(Diagnostic::warning(span, what.clone(), advice.clone()));
                self.missing.replace(Some(MissingSecret {
                    what,
                    advice,
                    until_restart: matches!(location, KeyLocation::Credential(_)),
                }));
                Some(empty())
            }
            Err(
                KeyFileError::AccessDenied { what, advice }
                | KeyFileError::Invalid { what, advice },
            ) => {
                scope.report(Diagnostic::error(span, what, advice));
                None
            }
        }
    }
}

/// Reports that neither a file nor a credential is set, unless another finding already says why.
fn report_missing(scope: &mut Scope<'_, '_>, names: &KeyNames) {
    let invalid = scope.sets(names.file)
        || scope.sets(names.credential)
        || scope.table.is_rejected(names.table);
    if !invalid {
        let subject = scope.subject();
        let what = match names.kind {
            KeyKind::Psk => format!("{subject} has no `psk`"),
            KeyKind::Ppk => format!("the `ppk` of {subject} has neither `file` nor `credential`"),
        };
        scope.report(Diagnostic::error(scope.header(), what, names.advice));
    }
}

/// Placeholder of a key that was not read; settings with it are not used.
fn empty() -> Secret {
    Secret::new(Vec::new())
}
