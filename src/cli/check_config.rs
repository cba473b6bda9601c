//! `jobmill check-config`: shows the settings that a server would run with, or every fault in them.

use std::{path::PathBuf, process::ExitCode};

use comfy_table::{Table, presets};
use jobmill::{
    clock::Clock,
    config::{Environment, Fault, Faults, Loaded, NextInstant, ResolvedSetting, SettingSource},
};
use serde_json::{Value, json};

use super::{
    serve::{EXIT_CONFIGURATION, SourceArgs},
    table::plain,
    text,
    ui::{Format, Ui},
};

/// Number of instants shown of each schedule.
const NEXT: usize = 3;

/// Checks the configuration, and shows each setting with its source. Starts nothing.
#[derive(clap::Args, Debug)]
pub(crate) struct CheckConfigArgs {
    /// Configuration file: the same as --config
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Checks the configuration. Exit codes: 0 if it is valid, 2 if not, 70 if the result can't be written.
pub(crate) fn run(args: CheckConfigArgs, ui: &Ui) -> ExitCode {
    let loaded = args.source.with_file(args.file).load(&Environment::of_process());
    let text = match ui.format {
        Format::Text => match &loaded {
            Ok(loaded) => table(loaded),
            Err(faults) => {
                ui.note(&faults.to_string());
                String::new()
            }
        },
        Format::Json => format!("{:#}\n", document(&loaded)),
    };
    if let Err(failure) = ui.print_raw(text.as_bytes())
        && let Some(line) = failure.line()
    {
        ui.note(&line);
        return failure.exit().into();
    }
    if loaded.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIGURATION) }
}

fn table(loaded: &Loaded) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["KEY", "VALUE", "FROM"]);
    for ResolvedSetting { key, value, place } in &loaded.entries {
        table.add_row([key.clone(), shown(value), place.to_string()]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let file = loaded.file.as_ref().map_or_else(
        || "The configuration is valid. No file was read.".to_owned(),
        |file| format!("The configuration is valid. File: {}", file.display()),
    );
    format!("{}\n\n{}{file}\n", table.trim_fmt(), schedules(loaded))
}

/// Shows when each schedule runs next.
fn schedules(loaded: &Loaded) -> String {
    if loaded.settings.schedules.is_empty() {
        return String::new();
    }
    let mut table = super::table::Table::new(["SCHEDULE", "NEXT", "UTC"], false);
    for (name, instants) in loaded.next_instants(Clock::System.now(), NEXT) {
        if instants.is_empty() {
            table.row([plain(text::escape(name)), plain("never again"), plain("")]);
        }
        for (index, instant) in instants.into_iter().enumerate() {
            let name = if index == 0 { text::escape(name) } else { "".into() };
            table.row([plain(name), plain(instant.local_time), plain(instant.time.to_string())]);
        }
    }
    format!("{}\n\n", table.render().trim_end())
}

/// Formats a value for the table: text without quotes, unless it holds control characters, which act on a terminal.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if !text.chars().any(char::is_control) => text.clone(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(values) => {
            let texts: Vec<_> = values
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), |text| format!("{text:?}")))
                .collect();
            format!("[{}]", texts.join(", "))
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

fn document(loaded: &Result<Loaded, Faults>) -> Value {
    match loaded {
        Ok(loaded @ Loaded { file, entries, .. }) => json!({
            "valid": true,
            "file": file,
            "settings": entries.iter().map(|ResolvedSetting { key, value, place }| {
                json!({ "key": key, "value": value, "from": from(place) })
            }).collect::<Vec<_>>(),
            "schedules": loaded.next_instants(Clock::System.now(), NEXT).map(|(name, instants)| {
                json!({ "name": name, "next": instants.into_iter().map(next).collect::<Vec<_>>() })
            }).collect::<Vec<_>>(),
        }),
        Err(faults) => json!({
            "valid": false,
            "faults": faults.as_slice().iter().map(|Fault { place, key, message }| {
                json!({ "key": key, "message": message, "from": from(place) })
            }).collect::<Vec<_>>(),
        }),
    }
}

fn next(instant: NextInstant) -> Value {
    let NextInstant { time, local_time, clock_change } = instant;
    let mut next = json!({ "time": time.to_string(), "localTime": local_time });
    if let Some(change) = clock_change {
        next["clockChange"] = change.into();
    }
    next
}

fn from(place: &SettingSource) -> Value {
    match place {
        SettingSource::File { path, line, column } => {
            json!({ "source": "file", "path": path.to_string_lossy(), "line": line, "column": column })
        }
        SettingSource::Environment(variable) => json!({ "source": "environment", "variable": variable }),
        SettingSource::Flag(flag) => json!({ "source": "flag", "flag": flag }),
        SettingSource::Default => json!({ "source": "default" }),
    }
}
