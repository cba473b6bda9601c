//! Tests of the code's structure, as ARCHITECTURE.md describes it.

#![expect(clippy::unwrap_used, reason = "a test that can't read the sources has failed")]

#[path = "tidy/functions.rs"]
mod functions;
#[path = "tidy/tokens.rs"]
mod tokens;
#[path = "tidy/uses.rs"]
mod uses;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use functions::functions;
use uses::{Tree, cycles};

/// The modules that each module of the library may use. Calls go downward: a module may use only modules listed before
/// it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("timeouts", &[]),
    ("timetable", &["clock"]),
    ("job", &["clock"]),
    ("settings", &["clock", "job", "timetable"]),
    ("access", &["clock", "settings"]),
    ("lines", &["clock"]),
    ("audit", &["clock", "lines"]),
    ("tls", &["clock", "settings"]),
    ("proto", &[]),
    ("listen", &["audit", "clock", "settings", "tls"]),
    ("store", &["clock", "job", "settings"]),
    ("engine", &["clock", "job", "settings", "store", "timetable"]),
    ("watch", &["clock", "job", "store"]),
    ("execute", &["clock", "job", "settings", "timeouts"]),
    ("client", &["clock", "job", "proto"]),
    ("worker", &["client", "clock", "execute", "job", "proto"]),
    ("admission", &["clock", "engine", "job", "settings"]),
    ("config", &["access", "admission", "clock", "engine", "job", "settings", "timetable", "tls"]),
    ("counters", &["clock", "engine", "job", "store"]),
    ("traces", &["clock", "job", "settings"]),
    ("shard", &["clock", "counters", "engine", "job", "store", "watch"]),
    ("workers", &["clock", "counters", "engine", "execute", "job", "settings", "shard", "store", "watch"]),
    ("intake", &["admission", "clock", "engine", "job", "settings", "shard", "traces"]),
    (
        "metrics",
        &[
            "clock", "counters", "engine", "execute", "job", "lines", "listen", "settings", "shard", "store",
            "timeouts", "worker", "workers",
        ],
    ),
    ("dispatch", &["engine", "execute", "job", "shard", "store", "timeouts", "traces", "watch"]),
    (
        "api",
        &[
            "access",
            "admission",
            "audit",
            "clock",
            "counters",
            "engine",
            "execute",
            "intake",
            "job",
            "listen",
            "proto",
            "settings",
            "shard",
            "store",
            "timeouts",
            "timetable",
            "traces",
            "watch",
            "workers",
        ],
    ),
    (
        "handle",
        &[
            "admission",
            "clock",
            "engine",
            "execute",
            "intake",
            "job",
            "metrics",
            "settings",
            "shard",
            "store",
            "watch",
        ],
    ),
    (
        "serve",
        &[
            "access",
            "admission",
            "api",
            "audit",
            "clock",
            "config",
            "counters",
            "dispatch",
            "engine",
            "execute",
            "handle",
            "intake",
            "job",
            "lines",
            "listen",
            "metrics",
            "settings",
            "shard",
            "store",
            "timeouts",
            "tls",
            "traces",
            "watch",
            "workers",
        ],
    ),
    ("lib", &["execute", "handle", "job", "serve", "settings"]),
    ("cli", &[]),
    ("main", &["cli"]),
];

/// Words that only some paths may use, with the reason.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    (
        "tonic::",
        &["src/api/", "src/client/", "src/worker/", "src/proto.rs", "src/cli/bench/"],
        "the rest must not know the wire",
    ),
    (
        "prost::",
        &["src/api/", "src/client/", "src/worker/", "src/proto.rs", "src/cli/bench/"],
        "the rest must not know the wire",
    ),
    ("opentelemetry", &["src/traces/"], "the rest makes spans through its functions"),
    ("prometheus::", &["src/counters/", "src/metrics/"], "the rest counts through its functions"),
    (
        "rusqlite::",
        &["src/store/sqlite/", "src/cli/bench/table.rs"],
        "only one store has SQL, and what it is measured against",
    ),
    (
        "TcpStream::connect",
        &["src/execute/http/connection.rs"],
        "addresses are judged before they are connected to",
    ),
    ("lookup_host", &["src/execute/http/connection.rs"], "addresses are judged before they are connected to"),
    ("SystemTime::now", &["src/clock.rs"], "time is injected"),
    ("Instant::now", &["src/clock.rs", "src/cli/"], "time is injected"),
    (".publish(", &["src/shard/"], "nobody but the committer tells watchers of changes"),
    ("tokio::spawn", &["src/serve.rs", "src/serve/", "src/cli/"], "tasks have an owner that waits for them"),
    // A guard's thread ends with its process; the bench's reads standard input, which nothing can interrupt.
    (
        "thread::spawn",
        &["src/execute/command/guard.rs", "src/cli/bench/server.rs"],
        "threads have an owner that waits for them",
    ),
    (
        "spawn_blocking",
        &["src/store/reads.rs", "src/serve.rs", "src/serve/", "src/cli/", "src/execute/command/"],
        "blocking work has a bound",
    ),
];

/// Words that some paths must not use, with the reason.
const NOT_IN: &[(&str, &[&str], &str)] = &[
    (".zip(", &["src/engine/", "src/shard/"], "no answer is found by its place in a list"),
    ("Ok(Err(", &["src/engine/", "src/shard/"], "a refusal is one error"),
    ("Stopwatch", &["src/engine/"], "the engine reads no clock"),
    ("Clock", &["src/engine/"], "the engine reads no clock"),
    ("fs::", &["src/engine/"], "the engine does no I/O"),
];

/// Words that no file may use, with the alternative. Split, so that this file does not match itself.
const NOWHERE: &[(&str, &str)] = &[
    (concat!("unbounded_", "channel"), "every channel is bounded"),
    (concat!("todo", "!("), "finish it, or leave it out"),
    (concat!("unimplemented", "!("), "finish it, or leave it out"),
    (concat!("#[al", "low("), "use #[expect] with a reason"),
    (concat!("#[ig", "nore"), "a test that does not run is no test"),
];

/// Words that no comment may use: they stand for a thing that has a name.
const NOT_IN_COMMENTS: [&str; 3] = [concat!("so ", "many"), concat!("who", "ever"), concat!("no", "body")];

/// Files longer than 500 lines, with the reason for not splitting them.
const LONG: &[(&str, &str)] = &[];

const LINES_MAX: usize = 500;

/// Folders whose files must not depend on each other in a circle.
const NO_CYCLES: &[&str] = &[
    "src/api/",
    "src/audit/",
    "src/cli/bench/",
    "src/config/",
    "src/counters/",
    "src/dispatch/",
    "src/job/",
    "src/metrics/",
    "src/serve/",
    "src/settings/",
    "src/timetable/",
    "src/worker/",
    "src/workers/",
];

/// Functions longer than 70 lines, with the reason for not splitting them.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[(
    "src/engine/transition.rs",
    "transition",
    "one match with an arm for each event, which is read like a table",
)];

const FUNCTION_LINES_MAX: usize = 70;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, ending: &str) -> Vec<(String, String)> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has no .{ending} files");
    found
}

/// Returns a file's code without comments and unit tests; unit tests may use more modules.
fn code(text: &str) -> String {
    let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    product.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn report(what: &str, faults: &BTreeSet<String>) {
    let list: Vec<_> = faults.iter().map(String::as_str).collect();
    assert!(faults.is_empty(), "{what}:\n  {}", list.join("\n  "));
}

/// Returns the modules of the library and the program.
fn tree() -> Tree {
    Tree::read(&files("src", "rs"), &["src/lib.rs", "src/main.rs"])
}

fn module_of(file: &str) -> &str {
    let rest = file.strip_prefix("src/").unwrap();
    rest.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn modules_use_only_what_is_below_them() {
    let mut faults = BTreeSet::new();
    for (at, (module, allowed)) in MAY_USE.iter().enumerate() {
        let below: Vec<_> = MAY_USE[..at].iter().map(|(below, _)| *below).collect();
        for used in allowed.iter().filter(|used| !below.contains(used)) {
            faults.insert(format!("`{module}` may use `{used}`, which is not listed before it"));
        }
    }
    let tree = tree();
    let mut needed = BTreeSet::new();
    for (file, modules_used) in tree.modules_used() {
        let module = module_of(file);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            faults.insert(format!("{file}: the module `{module}` is not listed"));
            continue;
        };
        for used in modules_used.into_iter().filter(|used| *used != module) {
            let known = MAY_USE.iter().any(|(name, _)| *name == used);
            if known && !allowed.contains(&used) {
                faults.insert(format!("{file} uses crate::{used}"));
            }
            needed.insert((module.to_owned(), used.to_owned()));
        }
    }
    for (module, allowed) in MAY_USE {
        for used in
            allowed.iter().filter(|used| !needed.contains(&((*module).to_owned(), (**used).to_owned())))
        {
            faults.insert(format!("`{module}` may use `{used}`, and does not: take it off the list"));
        }
    }
    report("a module reaches where it must not (see ARCHITECTURE.md)", &faults);
}

#[test]
fn no_file_needs_itself_through_others() {
    let uses = tree().uses();
    let cycles = NO_CYCLES.iter().flat_map(|folder| cycles(&uses, folder)).collect();
    report("cycles of files; move what both need to where it belongs", &cycles);
}

#[test]
fn functions_are_short_or_say_why_not() {
    let mut faults = BTreeSet::new();
    let mut long = BTreeSet::new();
    for (file, text) in files("src", "rs") {
        for function in functions(&tokens::product(&text)) {
            let name = (file.clone(), function.name);
            let (excused, lines) = (
                LONG_FUNCTIONS.iter().any(|(file, function, _)| (*file, *function) == (&*name.0, &*name.1)),
                function.lines,
            );
            if lines > FUNCTION_LINES_MAX && !excused {
                faults.insert(format!(
                    "{}: `{}` has {lines} lines; split it, or list it here with the reason",
                    name.0, name.1
                ));
            }
            if lines > FUNCTION_LINES_MAX {
                long.insert(name);
            }
        }
    }
    for (file, function, _) in LONG_FUNCTIONS {
        if !long.contains(&((*file).to_owned(), (*function).to_owned())) {
            faults.insert(format!("{file}: `{function}` is not long; take it off the list"));
        }
    }
    report("long functions", &faults);
}

#[test]
fn some_words_stay_in_their_places() {
    let mut faults = BTreeSet::new();
    for (file, text) in files("src", "rs") {
        let code = code(&text);
        for (word, places, why) in ONLY_IN {
            if code.contains(word) && !places.iter().any(|place| file.starts_with(place)) {
                faults.insert(format!("{file} has `{word}`: {why}"));
            }
        }
    }
    report("a word is out of its place", &faults);
}

/// Returns whether code has a word that is not the beginning of a longer one.
fn has(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        !word.ends_with(is_part) || !code[at + word.len()..].starts_with(is_part)
    })
}

#[test]
fn some_places_do_without_some_words() {
    let mut faults = BTreeSet::new();
    for (file, text) in files("src", "rs").into_iter().filter(|(file, _)| !file.ends_with("/tests.rs")) {
        let code = code(&text);
        for (word, places, why) in NOT_IN {
            if has(&code, word) && places.iter().any(|place| file.starts_with(place)) {
                faults.insert(format!("{file} has `{word}`: {why}"));
            }
        }
    }
    report("a word where it must not be", &faults);
}

#[test]
fn sql_names_its_columns() {
    let mut faults = BTreeSet::new();
    for (file, text) in files("src/store", "rs") {
        let code = code(&text);
        for (at, _) in code.match_indices("row.get") {
            let call = code[at..].split_once('(').map_or("", |(_, arguments)| arguments);
            if call.starts_with(|first: char| first.is_ascii_digit()) {
                faults.insert(format!(
                    "{file} takes a column by its place: {}",
                    call.chars().take(20).collect::<String>()
                ));
            }
        }
        // `decode.rs` copies unreadable rows whole, under the names of their columns.
        if code.contains("SELECT *") && !file.ends_with("decode.rs") {
            faults.insert(format!("{file} selects all columns"));
        }
        for (at, _) in code.match_indices("INSERT ") {
            let statement: String = code[at..].chars().take(300).collect();
            let before_values = statement.split("VALUES").next().unwrap();
            if statement.contains("INTO") && !before_values.contains('(') {
                faults.insert(format!("{file} inserts without naming columns: {before_values}"));
            }
        }
    }
    report("SQL that hangs on the order of columns", &faults);
}

#[test]
fn some_words_are_nowhere() {
    let mut faults = BTreeSet::new();
    for folder in ["src", "tests"] {
        for (file, text) in files(folder, "rs") {
            for (word, instead) in NOWHERE {
                if text.contains(word) {
                    faults.insert(format!("{file} has `{word}`: {instead}"));
                }
            }
        }
    }
    report("a word that nothing may use", &faults);
}

#[test]
fn comments_name_their_subjects() {
    let mut faults = BTreeSet::new();
    let folders = [("src", "rs"), ("tests", "rs"), ("examples", "rs"), ("proto", "proto"), ("src", "proto")];
    for (file, text) in folders.into_iter().flat_map(|(folder, ending)| files(folder, ending)) {
        // A phrase may go on in the next line.
        let lines = text.lines().map(|line| line.split_once("//").map_or("", |(_, comment)| comment));
        let comments: String = lines.map(|comment| comment.trim_start_matches(['/', '!'])).collect();
        let comments = comments.to_lowercase();
        for word in NOT_IN_COMMENTS.into_iter().filter(|word| comments.contains(word)) {
            faults.insert(format!("{file} has `{word}` in a comment: name the thing or the caller"));
        }
    }
    report("a pronoun in place of a name", &faults);
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut faults = BTreeSet::new();
    for (file, text) in files("src", "rs") {
        let lines = text.lines().count();
        let excused = LONG.iter().any(|(long, _)| *long == file);
        if lines > LINES_MAX && !excused {
            faults.insert(format!("{file} has {lines} lines; split it, or list it here with the reason"));
        }
        if lines <= LINES_MAX && excused {
            faults.insert(format!("{file} has only {lines} lines; take it off the list"));
        }
    }
    report("long files", &faults);
}

/// The headings of a document, as links name them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let titles =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    titles.map(|title| {
        let letters = title.to_lowercase();
        let kept = letters.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    })
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = BTreeSet::new();
    let mut documents = files("docs", "md");
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CODE_OF_CONDUCT.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        documents.push((name.to_owned(), fs::read_to_string(root().join(name)).unwrap()));
    }
    for (file, text) in documents {
        let folder: PathBuf = root().join(&file).parent().unwrap().into();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            let target = if path.is_empty() { root().join(&file) } else { folder.join(path) };
            if !target.exists() {
                faults.insert(format!("{file} links to {link}, which does not exist"));
            } else if !heading.is_empty()
                && !headings(&fs::read_to_string(&target).unwrap()).any(|known| known == heading)
            {
                faults.insert(format!("{file} links to {link}, a heading that does not exist"));
            }
        }
    }
    report("a link leads nowhere", &faults);
}

#[test]
fn the_program_in_the_readme_is_the_example_that_ci_runs() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let example = read("examples/bounded_queue.rs");
    // The comment on the example's first line is left out.
    let (_, program) = example.split_once("\n\n").unwrap();
    assert!(read("README.md").contains(&format!("```rust,no_run\n{program}```\n")));
    assert!(program.lines().count() <= 40, "it has {} lines", program.lines().count());
}
