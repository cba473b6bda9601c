//! The queues and kinds that a file declares.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
};

use toml::de::DeTable;

#[cfg(feature = "http")]
use super::endpoint::endpoint;
use super::{
    context::Context,
    entry::ResolvedSetting,
    fault::SettingSource,
    kind_defaults::{DEFAULT_KEYS, defaults, snooze_delay, snooze_pauses},
    paths::Folder,
    program,
    rules::{Bool, Choice, DurationIn, IntIn, KeepIn, LabelName, Rule, SizeIn},
    section::{Reading, Section},
};
use crate::{
    job::names::{NameError, check_free_kind_name, check_queue_name},
    settings::{
        CommandSettings, DEFAULT_KILL_GRACE, DEFAULT_QUEUE, HandlerSettings, Keep, KindSettings,
        QueueRetention, QueueSettings, Retention, WhenFull, limits,
    },
};

/// The keys of `[queues.NAME]`.
pub(super) const QUEUE_KEYS: [&str; 9] = [
    "max_jobs",
    "max_bytes",
    "consumers",
    "when_full",
    "max_wait",
    "max_waiters",
    "accept_unknown_kinds",
    "fair_by",
    "retention",
];

/// The keys of `[retention]`, and of `[queues.NAME.retention]`.
pub(super) const RETENTION_KEYS: [&str; 4] = ["succeeded", "failed", "cancelled", "expired"];

/// The keys of `[kinds."NAME"]`, in the order of the documentation.
pub(super) fn kind_keys() -> impl Iterator<Item = &'static str> {
    COMMAND_KEYS
        .into_iter()
        .chain(HTTP_KEYS)
        .chain(["snooze_delay", "snooze_pauses", "worker"])
        .chain(DEFAULT_KEYS)
}

/// The keys of kinds that run a command.
const COMMAND_KEYS: [&str; 7] =
    ["command", "env", "env_allow", "working_dir", "kill_grace", "permanent_exit_codes", "snooze_exit_codes"];

/// The keys of kinds that are mapped to a URL.
const HTTP_KEYS: [&str; 13] = [
    "url",
    "headers",
    "signing_secret_files",
    "signing_secret_env",
    "allow_private",
    "allow_networks",
    "ca_file",
    "connect_timeout",
    "max_connections",
    "connection_wait",
    "idle_timeout",
    "callback_url",
    "snooze_statuses",
];

const WHEN_FULL: Choice<WhenFull> = Choice(&[("wait", WhenFull::Wait), ("reject", WhenFull::Reject)]);

/// Returns the tables below `queues` or `kinds` that have valid names. Invalid names and too many tables are faults.
fn tables<'d>(
    root: &Section<'d>,
    parent: &str,
    max: usize,
    check_name: fn(&str) -> Result<(), NameError>,
    reading: &mut Reading<'_>,
) -> (Section<'d>, Vec<(&'d str, &'d DeTable<'d>)>) {
    let table = root.table(parent, reading);
    let section = Section::of_names(parent, table);
    let mut good = Vec::new();
    let Some(table) = table else {
        return (section, good);
    };
    if table.len() > max {
        let message = format!("there are {} of them, the limit is {max}; declare fewer", table.len());
        reading.fault_at(&root.key_span(parent), parent, message);
    }
    for name in table.keys() {
        if let Err(error) = check_name(name.get_ref()) {
            reading.fault_at(&name.span(), section.key(name.get_ref()), error.to_string());
        } else if let Some(inner) = section.table(name.get_ref(), reading) {
            good.push((name.get_ref().as_ref(), inner));
        }
    }
    (section, good)
}

/// Reads the queues; `default` is always among them.
pub(super) fn queues(root: &Section<'_>, reading: &mut Reading<'_>) -> BTreeMap<String, QueueSettings> {
    let mut queues = BTreeMap::new();
    let (parent, declared) = tables(root, "queues", limits::QUEUES_MAX, check_queue_name, reading);
    if !declared.iter().any(|(name, _)| *name == DEFAULT_QUEUE) {
        let section = Section::open(format!("queues.{DEFAULT_QUEUE}"), None, &QUEUE_KEYS, reading);
        queues.insert(DEFAULT_QUEUE.to_owned(), queue(&section, reading));
    }
    for (name, table) in declared {
        let section = Section::open(parent.key(name), Some(table), &QUEUE_KEYS, reading);
        queues.insert(name.to_owned(), queue(&section, reading));
    }
    let consumers: u64 = queues.values().map(|queue| u64::from(queue.consumers)).sum();
    if consumers > limits::CONSUMERS_TOTAL_MAX {
        let message = format!(
            "all queues together have {consumers} consumers, the limit is {}; give some of them fewer",
            limits::CONSUMERS_TOTAL_MAX
        );
        reading.fault_at(&root.key_span("queues"), "queues", message);
    }
    queues
}

fn queue(section: &Section<'_>, reading: &mut Reading<'_>) -> QueueSettings {
    let default = QueueSettings::default();
    let max_waiters = IntIn(limits::QUEUE_MAX_WAITERS);
    QueueSettings {
        max_jobs: section.setting("max_jobs", &IntIn(limits::QUEUE_JOBS), default.max_jobs, reading),
        max_bytes: section.setting("max_bytes", &SizeIn(limits::QUEUE_BYTES), default.max_bytes, reading),
        consumers: section.setting("consumers", &IntIn(limits::QUEUE_CONSUMERS), default.consumers, reading),
        when_full: section.setting("when_full", &WHEN_FULL, default.when_full, reading),
        max_wait: section.setting("max_wait", &DurationIn(limits::QUEUE_MAX_WAIT), default.max_wait, reading),
        max_waiters: section.setting("max_waiters", &max_waiters, default.max_waiters, reading),
        accept_unknown_kinds: section.setting(
            "accept_unknown_kinds",
            &Bool,
            default.accept_unknown_kinds,
            reading,
        ),
        fair_by: section.optional("fair_by", &LabelName, reading),
        retention: queue_retention(section, reading),
    }
}

/// Reads the server's retention, for queues that set none of their own.
pub(super) fn retention(root: &Section<'_>, reading: &mut Reading<'_>) -> Retention {
    let table = root.table("retention", reading);
    let section = Section::open("retention".to_owned(), table, &RETENTION_KEYS, reading);
    let (rule, default) = (KeepIn(limits::KEEP), Retention::default());
    Retention {
        succeeded: section.setting("succeeded", &rule, default.succeeded, reading),
        failed: section.setting("failed", &rule, default.failed, reading),
        cancelled: section.setting("cancelled", &rule, default.cancelled, reading),
        expired: section.setting("expired", &rule, default.expired, reading),
    }
}

fn queue_retention(section: &Section<'_>, reading: &mut Reading<'_>) -> QueueRetention {
    let table = section.table("retention", reading);
    let section = Section::open(section.key("retention"), table, &RETENTION_KEYS, reading);
    let rule = KeepIn(limits::KEEP);
    let mut keep = |state: &str| {
        let found = section.read(state, &rule, reading);
        let (shown, place) =
            found.as_ref().map_or((serde_json::Value::Null, SettingSource::Default), |(keep, place)| {
                (rule.show(keep), place.clone())
            });
        reading.entry(section.key(state), shown, place);
        found.map(|(keep, _)| keep)
    };
    QueueRetention {
        succeeded: keep("succeeded"),
        failed: keep("failed"),
        cancelled: keep("cancelled"),
        expired: keep("expired"),
    }
}

/// Limits the number of different retention times, because the store sweeps for each of them separately.
pub(super) fn check_times(
    root: &Section<'_>,
    server: Retention,
    queues: &BTreeMap<String, QueueSettings>,
    reading: &mut Reading<'_>,
) {
    let all = queues.values().map(|queue| queue.retention.over(server)).chain([server]);
    let times: BTreeSet<Keep> =
        all.flat_map(|all| [all.succeeded, all.failed, all.cancelled, all.expired]).collect();
    let times = times.into_iter().filter(|keep| *keep != Keep::Forever).count();
    if times > limits::KEEP_TIMES_MAX {
        let message = format!(
            "all queues together keep ended jobs for {times} different times, the limit is {}; use fewer",
            limits::KEEP_TIMES_MAX
        );
        reading.fault_at(&root.key_span("queues"), "queues", message);
    }
}

/// Reads the kinds.
pub(super) fn kinds(
    root: &Section<'_>,
    context: &Context<'_>,
    reading: &mut Reading<'_>,
) -> BTreeMap<String, KindSettings> {
    let mut kinds = BTreeMap::new();
    let keys: Vec<_> = kind_keys().collect();
    let (parent, declared) = tables(root, "kinds", limits::KINDS_MAX, check_free_kind_name, reading);
    for (name, table) in declared {
        let section = Section::open(parent.key(name), Some(table), &keys, reading);
        if ["command", "url", "worker"].iter().all(|key| section.get(key).is_none())
            && !section.has_stray_table()
        {
            let message = "the kind has no handler; add command = [\"/path/to/program\", \"argument\"] or \
                           url = \"https://example.org/jobs\", or worker = true if remote workers run it";
            reading.fault_at(&parent.key_span(name), parent.key(name), message);
        }
        let handler = handler(&section, context, reading);
        let defaults = defaults(&section, reading);
        // A missing handler is a fault already.
        if let Some(handler) = handler {
            kinds.insert(name.to_owned(), KindSettings { handler, defaults });
        }
    }
    kinds
}

/// Reads the command or the endpoint of a kind. A key that belongs to the other type of handler is a fault.
fn handler(
    section: &Section<'_>,
    context: &Context<'_>,
    reading: &mut Reading<'_>,
) -> Option<HandlerSettings> {
    let is_http = section.get("url").is_some();
    if section.get("worker").is_some() {
        return workers_only(section, reading);
    }
    let (strangers, advice): (&[&str], _) = match is_http {
        true => (&COMMAND_KEYS, "this is for kinds that run a `command`, and this one has a `url`"),
        false => (&HTTP_KEYS, "this is for kinds that have a `url`, and this one has none"),
    };
    for key in strangers.iter().filter(|key| section.get(key).is_some()) {
        reading.fault_at(
            &section.key_span(key),
            section.key(key),
            format!("{advice}; leave one of them out"),
        );
    }
    if !is_http {
        return Some(HandlerSettings::Command(command(section, context, reading)));
    }
    endpoint(section, context, reading)
}

/// Reads a kind that has no handler here.
fn workers_only(section: &Section<'_>, reading: &mut Reading<'_>) -> Option<HandlerSettings> {
    if !section.setting("worker", &Bool, true, reading) {
        let message = "false says nothing; leave the key out";
        reading.fault_at(&section.key_span("worker"), section.key("worker"), message);
    }
    for key in COMMAND_KEYS
        .iter()
        .chain(&HTTP_KEYS)
        .chain(&["snooze_delay", "snooze_pauses"])
        .filter(|key| section.get(key).is_some())
    {
        let advice =
            "this is for kinds with a handler here, and only workers run this one; leave one of them out";
        reading.fault_at(&section.key_span(key), section.key(key), advice);
    }
    Some(HandlerSettings::Workers)
}

#[cfg(not(feature = "http"))]
fn endpoint(section: &Section<'_>, _: &Context<'_>, reading: &mut Reading<'_>) -> Option<HandlerSettings> {
    let message = "this program was built without handlers over HTTP; build it with the feature `http`";
    reading.fault_at(&section.key_span("url"), section.key("url"), message);
    None
}

fn command(section: &Section<'_>, context: &Context<'_>, reading: &mut Reading<'_>) -> CommandSettings {
    let (mut argv, place) = section.elements("command", limits::ARGV_MAX, &Argument, reading);
    let entry = reading.entries.len();
    let env = variables(section, reading);
    find_program(section, &mut argv, env.get("PATH").map(OsStr::new), context, reading);
    let shown = ResolvedSetting { key: section.key("command"), value: argv.as_slice().into(), place };
    reading.entries.insert(entry, shown);
    let working_dir = Folder { base: context.base, must_exist: true };
    let exit_codes = IntIn(limits::EXIT_CODES);
    let max = limits::EXIT_CODES.count();
    let permanent_exit_codes = section.list_setting("permanent_exit_codes", max, &exit_codes, reading);
    let snooze_exit_codes = section.list_setting("snooze_exit_codes", max, &exit_codes, reading);
    if let Some(code) = snooze_exit_codes.iter().find(|code| permanent_exit_codes.contains(code)) {
        let message = format!("{code} is one of `permanent_exit_codes`, too; leave it out of one of them");
        reading.fault_at(&section.key_span("snooze_exit_codes"), section.key("snooze_exit_codes"), message);
    }
    CommandSettings {
        argv,
        env,
        env_allow: section.list_setting("env_allow", limits::VARIABLES_MAX, &VariableName, reading),
        working_dir: section.optional("working_dir", &working_dir, reading),
        kill_grace: section.setting(
            "kill_grace",
            &DurationIn(limits::KILL_GRACE),
            DEFAULT_KILL_GRACE,
            reading,
        ),
        permanent_exit_codes,
        snooze_exit_codes,
        snooze_delay: snooze_delay(section, reading),
        snooze_pauses: snooze_pauses(section, reading),
    }
}

/// Replaces the program's name by its absolute path.
fn find_program(
    section: &Section<'_>,
    argv: &mut [String],
    own_path: Option<&OsStr>,
    context: &Context<'_>,
    reading: &mut Reading<'_>,
) {
    let Some(list) = section.get("command").and_then(|value| value.get_ref().as_array()) else {
        return;
    };
    let Some(first) = list.iter().next() else {
        let span = section.get("command").map_or(0..0, toml::Spanned::span);
        let message = "the list is empty; write [\"/path/to/program\", \"argument\"]";
        return reading.fault_at(&span, section.key("command"), message);
    };
    // An element that is not text is a fault already, and leaves another element as the first of `argv`.
    let (Some(text), Some(program)) = (first.get_ref().as_str(), argv.first_mut()) else {
        return;
    };
    if text != program {
        return;
    }
    match program::find(program, own_path.or_else(|| context.environment.variable("PATH"))) {
        Ok(path) => *program = path,
        Err(message) => reading.fault_at(&first.span(), format!("{}[0]", section.key("command")), message),
    }
}

/// Reads the variables of a command. Their values may be secrets, and are never shown.
fn variables(section: &Section<'_>, reading: &mut Reading<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let table = section.table("env", reading);
    let inner = Section::open(section.key("env"), None, &[], reading);
    if let Some(table) = table.filter(|table| table.len() > limits::VARIABLES_MAX) {
        let message = format!(
            "there are {} variables, the limit is {}; give fewer",
            table.len(),
            limits::VARIABLES_MAX
        );
        reading.fault_at(&section.key_span("env"), section.key("env"), message);
    }
    for (name, value) in table.into_iter().flatten() {
        if let Err(message) = VariableName.text(name.get_ref()) {
            reading.fault_at(&name.span(), inner.key(name.get_ref()), message);
        }
        let fault = match value.get_ref().as_str() {
            Some(text) if text.contains('\0') => "the value has a NUL character, which no variable can have",
            Some(text) if text.len() > limits::ARGUMENT_BYTES_MAX => "the value is over the limit of 64KiB",
            Some(text) => {
                variables.insert(name.get_ref().to_string(), text.to_owned());
                continue;
            }
            None => "the value is not text; put it in quotes",
        };
        reading.fault_at(&value.span(), inner.key(name.get_ref()), fault);
    }
    let place = table.map_or(SettingSource::Default, |_| reading.place(&section.key_span("env")));
    reading.entry(section.key("env"), variables.keys().map(String::as_str).collect(), place);
    variables
}

/// One element of a command.
struct Argument;

impl Rule for Argument {
    type Value = String;

    fn wanted(&self) -> String {
        "each element as text in quotes".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        if text.contains('\0') {
            return Err(
                "the element has a NUL character, which no argument can have; leave it out".to_owned()
            );
        }
        if text.len() > limits::ARGUMENT_BYTES_MAX {
            return Err(format!(
                "the element has {} bytes, the limit is {}; pass a file instead",
                text.len(),
                limits::ARGUMENT_BYTES_MAX
            ));
        }
        Ok(text.to_owned())
    }

    fn show(&self, value: &String) -> serde_json::Value {
        value.as_str().into()
    }
}

/// The name of an environment variable.
struct VariableName;

impl Rule for VariableName {
    type Value = String;

    fn wanted(&self) -> String {
        "the name of a variable, such as \"API_TOKEN\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        const MAX_BYTES: usize = 256;
        let fault = if text.is_empty() {
            "the name is empty".to_owned()
        } else if text.len() > MAX_BYTES {
            format!("the name has {} bytes, the limit is {MAX_BYTES}", text.len())
        } else if let Some(char) = text.chars().find(|c| *c == '=' || c.is_control()) {
            format!("the name has {char:?}")
        } else if text.starts_with("JOBMILL_") {
            "names that start with JOBMILL_ are Jobmill's own".to_owned()
        } else {
            return Ok(text.to_owned());
        };
        Err(format!("{fault}; write {}", self.wanted()))
    }

    fn show(&self, value: &String) -> serde_json::Value {
        value.as_str().into()
    }
}
