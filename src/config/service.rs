//! The systemd service as `check` sees it from outside: its user, and the files of its credentials.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::key_text::{KeyFileError, KeyKind};
use crate::os::user::User;

/// Folders of units, the first of which with the unit provides it (systemd.unit(5)).
const UNIT_FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

const UNIT: &str = "groundlink.service";

/// What the installed unit says about the access to key files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceView {
    user: Option<User>,
    /// `LoadCredential=ID:PATH`.
    credentials: Vec<(String, PathBuf)>,
    /// Whether credentials come from elsewhere, too.
    has_other_credentials: bool,
}

/// Source of one credential of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceCredential {
    /// A file, which may not exist.
    File(PathBuf),
    /// The unit loads no such credential.
    Absent,
    /// It may be encrypted, or come from elsewhere.
    Unknown,
}

impl ServiceView {
    /// The installed unit with its drop-ins; `None` if there is none.
    pub fn of_this_machine() -> Option<ServiceView> {
        let folders = UNIT_FOLDERS.map(Path::new);
        let unit = folders
            .iter()
            .find_map(|folder| fs::read_to_string(folder.join(UNIT)).ok())?;
        let folders = folders.map(|folder| folder.join(format!("{UNIT}.d")));
        let texts: Vec<String> = std::iter::once(unit).chain(drop_ins(&folders)).collect();
        Some(ServiceView::from_unit(&texts.join("\n"), User::named))
    }

    /// Reads the lines of a unit; `user` looks a name up.
    fn from_unit(text: &str, user: impl Fn(&str) -> Option<User>) -> ServiceView {
        let mut view = ServiceView::default();
        for line in text.lines() {
            match line.split_once('=') {
                Some(("User", name)) => view.user = user(name.trim()),
                Some(("LoadCredential", "")) => view.credentials.clear(),
                Some(("LoadCredential", value)) => match value.split_once(':') {
                    Some((id, path)) => {
                        view.credentials
                            .push((id.trim().to_owned(), path.trim().into()));
                    }
                    None => view.has_other_credentials = true,
                },
                Some((
                    "LoadCredentialEncrypted"
                    | "SetCredential"
                    | "SetCredentialEncrypted"
                    | "ImportCredential",
                    _,
                )) => view.has_other_credentials = true,
                Some(_) | None => {}
            }
        }
        view
    }

    /// Where a credential comes from. A folder provides each of its files as `ID_FILE`.
    pub fn credential(&self, name: &str) -> ServiceCredential {
        let file = self.credentials.iter().find_map(|(id, path)| {
            if id == name {
                return Some(path.clone());
            }
            let file = name.strip_prefix(id.as_str())?.strip_prefix('_')?;
            Some(path.join(file))
        });
        match file {
            Some(path) => ServiceCredential::File(path),
            None if self.has_other_credentials => ServiceCredential::Unknown,
            None => ServiceCredential::Absent,
        }
    }

    /// Whether the service may read a key file itself.
    pub fn check_access(&self, path: &Path, kind: KeyKind) -> Result<(), KeyFileError> {
        let Some(user) = &self.user else {
            return Ok(());
        };
        let Err(error) = user.open(path) else {
            return Ok(());
        };
        let (shown, word, name) = (path.display(), kind.word(), &user.name);
        let table = word.to_ascii_lowercase();
        let advice = match self.name_of(path) {
            Some(credential) => format!(
                "systemd reads the file for the service: {table} = {{ credential = \"{credential}\" }}"
            ),
            None => format!(
                "make `{name}` its owner, with access to its directories, or load it with LoadCredential= and write {table} = {{ credential = … }}"
            ),
        };
        Err(KeyFileError::Invalid {
            what: format!(
                "the service runs as `{name}`, who cannot read the {word} file {shown}: {error}"
            ),
            advice,
        })
    }

    /// The credential that a file becomes.
    fn name_of(&self, path: &Path) -> Option<String> {
        self.credentials.iter().find_map(|(id, source)| {
            if source == path {
                return Some(id.clone());
            }
            let file = path.strip_prefix(source).ok()?.to_str()?;
            (!file.is_empty() && !file.contains('/')).then(|| format!("{id}_{file}"))
        })
    }
}

/// The texts of a unit's drop-ins in the order of their names; of two with one name, that of the first folder counts.
fn drop_ins(folders: &[PathBuf]) -> Vec<String> {
    let mut paths: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "conf")
            {
                paths.entry(entry.file_name()).or_insert(path);
            }
        }
    }
    paths
        .values()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../systemd/groundlink.service");

    #[test]
    fn drop_ins_are_sorted_by_name_over_all_folders_and_the_first_folder_wins() {
        let parent = tempfile::tempdir().unwrap();
        let folders = ["etc", "lib", "absent"].map(|name| parent.path().join(name));
        for (folder, name, text) in [
            (0, "20-a.conf", "etc 20"),
            (0, "30-same.conf", "etc 30"),
            (1, "10-z.conf", "lib 10"),
            (1, "30-same.conf", "lib 30"),
            (1, "40.txt", "no drop-in"),
        ] {
            fs::create_dir_all(&folders[folder]).unwrap();
            fs::write(folders[folder].join(name), text).unwrap();
        }
        assert_eq!(drop_ins(&folders), ["lib 10", "etc 20", "etc 30"]);
    }

    #[test]
    fn credentials_come_from_the_files_that_the_unit_names() {
        let view = ServiceView::from_unit(SHIPPED, |_| None);
        let file = |path: &str| ServiceCredential::File(path.into());
        assert_eq!(
            view.credential("psk_ali-1"),
            file("/etc/groundlink/psk/ali-1")
        );
        assert_eq!(view.credential("other"), ServiceCredential::Absent);
        let path = Path::new("/etc/groundlink/psk/ali-1");
        assert_eq!(view.name_of(path).as_deref(), Some("psk_ali-1"));
        assert_eq!(view.name_of(Path::new("/etc/shadow")), None);
        let dropped = format!("{SHIPPED}LoadCredential=\nLoadCredential=one:/a\n");
        let view = ServiceView::from_unit(&dropped, |_| None);
        assert_eq!(view.credential("one"), file("/a"));
        assert_eq!(view.credential("psk_ali-1"), ServiceCredential::Absent);
        let view = ServiceView::from_unit("ImportCredential=psk*\n", |_| None);
        assert_eq!(view.credential("psk_a"), ServiceCredential::Unknown);
    }
}
