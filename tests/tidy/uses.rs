//! Finds which files use which others, by their `use` declarations and the paths in their code.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{LocatedToken, Token, closing, product};

/// A path, segment by segment.
type Path = Vec<String>;

/// The modules of some crates, treated as one tree.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The file of each module that has one.
    modules: BTreeMap<Path, String>,
    files: BTreeMap<String, File>,
}

#[derive(Debug)]
struct File {
    /// The paths that the file names, from the root on.
    paths: BTreeSet<Path>,
    /// The file's re-exports by name, if it has nothing but module declarations and `pub use`. A re-export from another
    /// crate has no path.
    reexports: Option<BTreeMap<String, Option<Path>>>,
}

/// The names that each file uses from each other file.
pub(crate) type Uses = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

impl Tree {
    /// Reads the files that these roots declare, directly or indirectly, without modules for tests only.
    pub(crate) fn read(texts: &[(String, String)], roots: &[&str]) -> Self {
        let texts: BTreeMap<_, _> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let mut tree = Tree::default();
        let mut read = Vec::new();
        let mut declared: Vec<(String, Path)> =
            roots.iter().map(|root| ((*root).to_owned(), Vec::new())).collect();
        while let Some((file, module)) = declared.pop() {
            let text =
                texts.get(file.as_str()).unwrap_or_else(|| panic!("{file} is declared, and not there"));
            let tokens = product(text);
            let scan = Scan::of(&tokens, &module);
            for child in scan.children {
                let [beside, within] = places(&file, &child[module.len()..]);
                declared.push((if texts.contains_key(beside.as_str()) { beside } else { within }, child));
            }
            tree.modules.insert(module.clone(), file.clone());
            read.push((file, module, scan.paths, reexports_of(&tokens)));
        }
        for (file, module, paths, reexports_of) in read {
            let paths = paths.iter().filter_map(|(within, path)| tree.absolute(within, path)).collect();
            let reexports = reexports_of.map(|names| {
                names.into_iter().map(|(name, path)| (name, tree.absolute(&module, &path))).collect()
            });
            tree.files.insert(file, File { paths, reexports });
        }
        tree
    }

    /// Returns a path from the root on; `None` if it begins with another crate or an imported name.
    fn absolute(&self, within: &[String], path: &[String]) -> Option<Path> {
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => self.absolute(within, &path[1..]).or_else(|| Some([within, &path[1..]].concat())),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                Some([&within[..within.len().checked_sub(ups)?], &path[ups..]].concat())
            }
            _ => {
                let child = [within, &path[..1]].concat();
                self.modules.contains_key(&child).then(|| [within, path].concat())
            }
        }
    }

    /// Returns the file that defines what a path from the root names, looking through files that only re-export.
    fn file_of(&self, path: &[String]) -> &str {
        let depth =
            (0..=path.len()).rev().find(|depth| self.modules.contains_key(&path[..*depth])).unwrap_or(0);
        let file = &self.modules[&path[..depth]];
        let reexports = self.files[file].reexports.as_ref();
        match (reexports, path.get(depth)) {
            (Some(names), Some(name)) => match names.get(name) {
                Some(Some(path)) => self.file_of(path),
                Some(None) => file,
                None => panic!("{file} does not pass on the `{name}` of {}", path.join("::")),
            },
            (None, _) | (_, None) => file,
        }
    }

    /// Returns what each file uses from each other one. Files that only re-export use nothing.
    pub(crate) fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (name, file) in self.files.iter().filter(|(_, file)| file.reexports.is_none()) {
            for path in &file.paths {
                let used = self.file_of(path);
                if used != name {
                    let item = path.last().cloned().unwrap_or_default();
                    uses.entry(name.clone()).or_default().entry(used.to_owned()).or_default().insert(item);
                }
            }
        }
        uses
    }

    /// Returns the top-level modules that each file names.
    pub(crate) fn modules_used(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut modules_used = BTreeMap::new();
        for (name, file) in &self.files {
            let named = file.paths.iter().filter_map(|path| path.first()).map(String::as_str);
            modules_used.insert(name.as_str(), named.collect());
        }
        modules_used
    }
}

/// Returns the two paths at which a module declared in `file` may have its file; `below` is its path within `file`.
fn places(file: &str, below: &[String]) -> [String; 2] {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let folder = match name {
        "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
        _ => file.trim_end_matches(".rs").to_owned(),
    };
    let place = format!("{folder}/{}", below.join("/"));
    [format!("{place}.rs"), format!("{place}/mod.rs")]
}

/// The declarations and paths of one file, not yet resolved.
#[derive(Default)]
struct Scan {
    /// The modules that have files of their own, from the root on.
    children: Vec<Path>,
    /// Each path with the module that contains it.
    paths: Vec<(Path, Path)>,
}

impl Scan {
    fn of(tokens: &[LocatedToken], module: &[String]) -> Self {
        let mut scan = Scan::default();
        let mut within = module.to_vec();
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some((token, _)) = tokens.get(at) {
            let next = |ahead: usize| tokens.get(at + ahead).map(|(token, _)| token);
            match (token.word(), next(1), next(2)) {
                (Some("mod"), Some(Token::Word(name)), Some(Token::Sign(';'))) => {
                    scan.children.push([within.as_slice(), std::slice::from_ref(name)].concat());
                    at += 3;
                }
                (Some("mod"), Some(Token::Word(name)), Some(Token::Sign('{'))) => {
                    within.push(name.clone());
                    ends.push(closing(tokens, at + 2));
                    at += 3;
                }
                (Some("use"), Some(next), _) if *next != Token::Sign('<') => {
                    let end = end_of_use(tokens, at);
                    let named = imported(&tokens[at + 1..end], &[]);
                    scan.paths.extend(named.into_iter().map(|(_, path)| (within.clone(), path)));
                    at = end + 1;
                }
                (Some(first), Some(Token::Separator), Some(Token::Word(_))) => {
                    let mut path = vec![first.to_owned()];
                    at += 1;
                    while let [(Token::Separator, _), (Token::Word(part), _), ..] = &tokens[at..] {
                        path.push(part.clone());
                        at += 2;
                    }
                    scan.paths.push((within.clone(), path));
                }
                _ => {
                    if ends.last() == Some(&at) {
                        ends.pop();
                        within.pop();
                    }
                    at += 1;
                }
            }
        }
        scan
    }
}

fn end_of_use(tokens: &[LocatedToken], at: usize) -> usize {
    (at..tokens.len()).find(|at| tokens[*at].0 == Token::Sign(';')).unwrap_or(tokens.len())
}

/// Returns the paths of a `use`, with groups expanded, each with its local name.
fn imported(tokens: &[LocatedToken], prefix: &[String]) -> Vec<(String, Path)> {
    let mut path = prefix.to_vec();
    let mut alias = None;
    let mut at = 0;
    while let Some((token, _)) = tokens.get(at) {
        match token {
            Token::Word(word) if word == "as" => {
                alias = tokens.get(at + 1).and_then(|(token, _)| token.word()).map(str::to_owned);
                at += 1;
            }
            Token::Word(word) => path.push(word.clone()),
            Token::Sign('*') => path.push("*".to_owned()),
            Token::Sign('{') => {
                let group = &tokens[at + 1..closing(tokens, at)];
                return members(group).into_iter().flat_map(|member| imported(member, &path)).collect();
            }
            // `::name` is another crate, even if the module has an item of that name.
            Token::Separator if path.is_empty() => return Vec::new(),
            Token::Separator | Token::Sign(_) | Token::Literal => {}
        }
        at += 1;
    }
    // `module::{self}` names the module.
    path.pop_if(|last| last == "self" && !prefix.is_empty());
    path.last().cloned().map(|name| (alias.unwrap_or(name), path)).into_iter().collect()
}

/// Returns the members of a group, split at its commas.
fn members(group: &[LocatedToken]) -> Vec<&[LocatedToken]> {
    let (mut members, mut start, mut at) = (Vec::new(), 0, 0);
    while at < group.len() {
        match group[at].0 {
            Token::Sign('{') => at = closing(group, at),
            Token::Sign(',') => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            Token::Word(_) | Token::Separator | Token::Sign(_) | Token::Literal => {}
        }
        at += 1;
    }
    members.push(&group[start.min(group.len())..]);
    members.retain(|member| !member.is_empty());
    members
}

/// Returns a file's re-exports with their names, if it has nothing but attributes, module declarations and `pub use`.
fn reexports_of(tokens: &[LocatedToken]) -> Option<Vec<(String, Path)>> {
    let (mut names, mut at, mut public) = (Vec::new(), 0, false);
    while let Some((token, _)) = tokens.get(at) {
        match (token.word(), token) {
            (Some("pub"), _) => {
                public = true;
                if tokens.get(at + 1)?.0 == Token::Sign('(') {
                    at = closing(tokens, at + 1);
                }
                at += 1;
                continue;
            }
            (Some("mod"), _) if tokens.get(at + 2)?.0 == Token::Sign(';') => at += 3,
            (Some("use"), _) if public => {
                let end = end_of_use(tokens, at);
                names.extend(imported(&tokens[at + 1..end], &[]));
                at = end + 1;
            }
            (None, Token::Sign('#' | '!')) => at += 1,
            (None, Token::Sign('[')) => at = closing(tokens, at) + 1,
            _ => return None,
        }
        public = false;
    }
    Some(names)
}

/// Returns the circular dependencies among the files below a folder, each with the names that cause it.
pub(crate) fn cycles(uses: &Uses, folder: &str) -> Vec<String> {
    let inside = |file: &&String| file.starts_with(folder);
    let next = |file: &String| uses.get(file).into_iter().flatten().map(|(used, _)| used).filter(inside);
    let reached = |file: &String| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![file.clone()]);
        while let Some(file) = open.pop() {
            open.extend(next(&file).filter(|used| reached.insert((*used).clone())).cloned());
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        uses.keys().filter(inside).map(|file| (file, reached(file))).collect();
    let mut found = BTreeSet::new();
    for (file, others) in reached.iter().filter(|(file, others)| others.contains(**file)) {
        let circle: Vec<_> = others
            .iter()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(*file)))
            .collect();
        let ties =
            circle.iter().flat_map(|from| uses[*from].iter().map(move |(to, names)| (*from, to, names)));
        let ties = ties.filter(|(_, to, _)| circle.contains(to)).map(|(from, to, names)| {
            format!("{from} -> {to}: {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
        });
        found.insert(ties.collect::<Vec<_>>().join("\n    "));
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::{Tree, cycles};

    fn tree(files: &[(&str, &str)]) -> Tree {
        let files: Vec<_> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Tree::read(&files, &["src/lib.rs"])
    }

    /// Renders each use as `from to: names`.
    fn uses(tree: &Tree) -> Vec<String> {
        let uses = tree.uses();
        let pairs =
            uses.iter().flat_map(|(from, used)| used.iter().map(move |(to, names)| (from, to, names)));
        let line = |(from, to, names): (&String, &String, &std::collections::BTreeSet<String>)| {
            format!("{from} {to}: {}", names.iter().cloned().collect::<Vec<_>>().join(" "))
        };
        pairs.map(line).collect()
    }

    #[test]
    fn every_form_of_a_use_is_read() {
        let tree = tree(&[
            ("src/lib.rs", "mod a; mod b; pub mod c; fn f() { c::g() }"),
            (
                "src/a/mod.rs",
                "//! Only passes on.\n#![warn(x)]\nmod d;\n#[cfg(feature = \"e\")]\npub mod e;\npub use self::{d::{D1, D2 as Two}, e::E};",
            ),
            (
                "src/a/d.rs",
                "use super::{e::{self, E}, Two}; use ::b::B; use std::{fmt, io::{self}}; use c::C;",
            ),
            (
                "src/a/e.rs",
                "fn f(x: super::super::b::B) -> impl T + use<> { crate::c::deep::g(); self::h(); Local::i() }\n\
                 mod inner { use super::super::d::D1; use super::super::super::c; }",
            ),
            (
                "src/b.rs",
                "mod child; pub(crate) use self::child::B; use crate::{\n    a::{D1, Two, E},\n    c::{self},\n};",
            ),
            ("src/b/child.rs", "use super::B; #[cfg(test)] mod tests { use crate::c; }"),
            ("src/c.rs", "mod deep { pub fn g() {} } fn f() { let _ = crate::a::e::E; }"),
        ]);
        assert_eq!(
            uses(&tree),
            [
                "src/a/d.rs src/a/e.rs: E e",
                "src/a/e.rs src/a/d.rs: D1",
                "src/a/e.rs src/b.rs: B",
                "src/a/e.rs src/c.rs: c g",
                "src/b.rs src/a/d.rs: D1 Two",
                "src/b.rs src/a/e.rs: E",
                "src/b.rs src/b/child.rs: B",
                "src/b.rs src/c.rs: c",
                "src/b/child.rs src/b.rs: B",
                "src/c.rs src/a/e.rs: E",
                "src/lib.rs src/c.rs: g",
            ]
        );
        let modules_used = tree.modules_used();
        assert_eq!(modules_used["src/a/e.rs"].iter().copied().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(modules_used["src/a/mod.rs"].iter().copied().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn circles_are_found_within_a_folder_and_through_files_that_only_pass_on() {
        let tree = tree(&[
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a/mod.rs", "mod c; mod d; mod e; pub use self::{c::C, d::D, e::E};"),
            ("src/a/c.rs", "use super::D; use crate::b::B;"),
            ("src/a/d.rs", "use super::E;"),
            ("src/a/e.rs", "use super::C;"),
            ("src/b.rs", "use crate::a::C;"),
        ]);
        let uses = tree.uses();
        let expected =
            "src/a/c.rs -> src/a/d.rs: D\n    src/a/d.rs -> src/a/e.rs: E\n    src/a/e.rs -> src/a/c.rs: C";
        assert_eq!(cycles(&uses, "src/a/"), [expected]);
        assert_eq!(cycles(&uses, "src/b"), [""; 0]);
        assert_eq!(cycles(&uses, "src/").len(), 1);
    }

    #[test]
    fn a_module_that_passes_on_and_does_something_itself_is_part_of_circles() {
        let tree = tree(&[
            ("src/lib.rs", "mod a;"),
            ("src/a/mod.rs", "mod c; pub use self::c::C; pub struct A;"),
            ("src/a/c.rs", "use super::A;"),
        ]);
        assert_eq!(cycles(&tree.uses(), "src/a/").len(), 1);
    }
}
