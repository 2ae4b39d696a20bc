//! Which file imports which, and the cycles among them.
//!
//! An import leads to the file that defines the name: `pub use` lines of a `mod.rs` are followed, and are no imports of their own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::source::{Token, paths, text};

/// The files of one package by module path, as `["ike", "sa"]`.
pub struct Graph {
    files: BTreeMap<Vec<String>, Module>,
}

struct Module {
    file: String,
    /// Absolute paths that the file names, with their lines.
    imports: Vec<(Vec<String>, usize)>,
    /// Absolute paths that the file re-exports.
    reexports: Vec<Vec<String>>,
}

/// Longest chain of re-exports that is followed.
const MAX_REEXPORTS: usize = 8;

impl Graph {
    /// A graph of these files: name, module path, tokens without tests.
    pub fn new(sources: Vec<(String, Vec<String>, Vec<Token>)>) -> Graph {
        let modules: BTreeSet<Vec<String>> = sources.iter().map(|(_, m, _)| m.clone()).collect();
        let files = sources.into_iter().map(|(file, module, tokens)| {
            let (exported, rest) = split_reexports(&tokens);
            let resolve = |tokens: &[Token]| {
                let found = paths(tokens).into_iter();
                let absolute = found.filter_map(|path| {
                    Some((absolute(&path.segments, &module, &modules)?, path.line))
                });
                absolute.collect::<Vec<_>>()
            };
            let imports = resolve(&rest);
            let reexports = resolve(&exported)
                .into_iter()
                .map(|(path, _)| path)
                .collect();
            let node = Module {
                file,
                imports,
                reexports,
            };
            (module, node)
        });
        Graph {
            files: files.collect(),
        }
    }

    /// Each import that is part of a cycle within its top-level folder, with the way back.
    pub fn cycles(&self) -> Vec<String> {
        let mut edges: BTreeMap<&Vec<String>, BTreeMap<&Vec<String>, usize>> = BTreeMap::new();
        for (module, node) in &self.files {
            for (path, line) in &node.imports {
                let Some(target) = self.defining_file(path, MAX_REEXPORTS) else {
                    continue;
                };
                if target != module && target.first() == module.first() {
                    let row = edges.entry(module).or_default();
                    row.entry(target).or_insert(*line);
                }
            }
        }
        let mut found = Vec::new();
        for (from, targets) in &edges {
            for (to, line) in targets {
                if let Some(back) = way_back(&edges, to, from) {
                    let names: Vec<&str> =
                        back.iter().map(|m| self.files[*m].file.as_str()).collect();
                    let file = &self.files[*from].file;
                    found.push(format!("{file}:{line}: imports {}", names.join(" → ")));
                }
            }
        }
        found
    }

    /// The module whose file defines what `path` names.
    fn defining_file(&self, path: &[String], hops: usize) -> Option<&Vec<String>> {
        let mut depth = path.len();
        while !self.files.contains_key(&path[..depth]) {
            depth = depth.checked_sub(1)?;
        }
        let (module, node) = self.files.get_key_value(&path[..depth])?;
        let Some(name) = path.get(depth) else {
            return Some(module);
        };
        let exported = node.reexports.iter().find(|e| e.last() == Some(name));
        match exported {
            Some(target) if hops > 0 && target != path => self.defining_file(target, hops - 1),
            _ => Some(module),
        }
    }
}

/// The shortest list of modules from `from` to `to`, both included.
fn way_back<'a>(
    edges: &BTreeMap<&'a Vec<String>, BTreeMap<&'a Vec<String>, usize>>,
    from: &'a Vec<String>,
    to: &'a Vec<String>,
) -> Option<Vec<&'a Vec<String>>> {
    let mut before: BTreeMap<&Vec<String>, &'a Vec<String>> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut chain = vec![at];
            while let Some(previous) = before.get(chain[chain.len() - 1]) {
                chain.push(previous);
            }
            chain.reverse();
            return Some(chain);
        }
        for next in edges.get(at).into_iter().flat_map(BTreeMap::keys) {
            if *next != from && !before.contains_key(*next) {
                before.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}

/// The path from the root of the package on, if it is one of ours.
fn absolute(
    segments: &[String],
    module: &[String],
    modules: &BTreeSet<Vec<String>>,
) -> Option<Vec<String>> {
    let (base, rest) = match segments.first()?.as_str() {
        "crate" => (&module[..0], &segments[1..]),
        "self" => (module, &segments[1..]),
        "super" => {
            let climbs = segments.iter().take_while(|s| *s == "super").count();
            (
                &module[..module.len().checked_sub(climbs)?],
                &segments[climbs..],
            )
        }
        child => {
            let path: Vec<String> = module.iter().cloned().chain([child.to_owned()]).collect();
            (modules.contains(&path).then_some(module)?, segments)
        }
    };
    Some(base.iter().chain(rest).cloned().collect())
}

/// The tokens of all `pub use` items, and all others.
fn split_reexports(tokens: &[Token]) -> (Vec<Token>, Vec<Token>) {
    let (mut exported, mut rest) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let mut start = at + 1;
        if text(tokens, at) == "pub" && text(tokens, start) == "(" {
            while !matches!(text(tokens, start), ")" | "") {
                start += 1;
            }
            start += 1;
        }
        if text(tokens, at) == "pub" && text(tokens, start) == "use" {
            at = start;
            while !matches!(text(tokens, at), ";" | "") {
                exported.push(tokens[at].clone());
                at += 1;
            }
        } else {
            rest.push(tokens[at].clone());
            at += 1;
        }
    }
    (exported, rest)
}
