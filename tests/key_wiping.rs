//! No buffer that held a pre-shared key is freed unwiped: an allocator searches each freed block for the key, after errors too.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use data_encoding::{BASE64, HEXLOWER};
use groundlink::config::{ConfigText, LoadOptions, SecretPolicy, Severity, load_text};

/// The key, and by it the part of its encodings that is searched for.
const KEY: &[u8; 24] = b"Q7vYd0x3LmZk9TtR2sWcUe8H";

/// Length of the searched parts. A read of the file's whole text or key contains each part.
const PART: usize = 12;

/// The system's allocator, which searches the blocks that a watched thread frees.
struct Searching;

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static FOUND: Cell<u32> = const { Cell::new(0) };
}

fn contains_key(block: &[u8]) -> bool {
    // Computed without an allocation: the hexadecimal and base64 texts of the key's first bytes.
    const HEX: &[u8; PART] = b"513776596430";
    const BASE64_TEXT: &[u8; PART] = b"UTd2WWQweDNM";
    let parts = [&KEY[..PART], HEX, BASE64_TEXT];
    block.windows(PART).any(|window| parts.contains(&window))
}

// SAFETY: the system's allocator does all the work; the cells neither allocate nor have a destructor.
#[allow(unsafe_code, reason = "a global allocator")]
unsafe impl GlobalAlloc for Searching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // Zeroed, so that a search of the whole block reads initialized memory only.
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if WATCHED.get() {
            // SAFETY: the block was initialized when it was allocated and is still allocated.
            let block = unsafe { std::slice::from_raw_parts(at, layout.size()) };
            if contains_key(block) {
                FOUND.set(FOUND.get() + 1);
            }
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Searching = Searching;

/// Number of blocks with the key that `work` freed.
fn unwiped(work: impl FnOnce()) -> u32 {
    FOUND.set(0);
    WATCHED.set(true);
    work();
    WATCHED.set(false);
    FOUND.get()
}

/// Loads a configuration whose key file has these contents, drops the result, and returns the number of errors.
fn load(folder: &Path, contents: &[u8]) -> usize {
    let path = folder.join("psk");
    fs::write(&path, contents).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let text = "[gateway]\naddress = \"203.0.113.7\"\n[[tunnel]]\nname = \"a\"\npeer = \"192.0.2.1\"\n\
                psk = { file = \"psk\" }\nlocal = [\"10.0.0.0/24\"]\nremote = [\"10.1.0.0/24\"]\n";
    let options = LoadOptions {
        credentials: None,
        secrets: SecretPolicy::Required,
    };
    let loaded = load_text(ConfigText::new("t.toml", text), folder, &options);
    let findings = loaded.report.findings().iter();
    findings.filter(|f| f.severity == Severity::Error).count()
}

#[test]
fn no_buffer_with_a_key_is_freed_unwiped() {
    assert_eq!(unwiped(|| drop(KEY.to_vec())), 1, "the search finds a key");
    let folder = tempfile::tempdir().unwrap();
    let (hex, base64) = (HEXLOWER.encode(KEY), BASE64.encode(KEY));
    let oversized = KEY.repeat(400);
    for (contents, errors) in [
        (KEY.to_vec(), 0),
        (format!("0x{hex}").into_bytes(), 0),
        (format!("0s{base64}").into_bytes(), 0),
        // Invalid at the end, when part of the key is decoded.
        (format!("0x{hex}zz").into_bytes(), 1),
        (format!("0x{hex}0").into_bytes(), 1),
        (format!("0s{base64}****").into_bytes(), 1),
        (oversized, 1),
    ] {
        let mut found = 0;
        let freed = unwiped(|| found = load(folder.path(), &contents));
        let shown = String::from_utf8_lossy(&contents[..40.min(contents.len())]);
        assert_eq!((found, freed), (errors, 0), "{shown}");
    }
}
