//! `jobmill doctor`: diagnoses an installation and suggests fixes.

mod folder;
mod handlers;
mod leftover;
mod process;
mod server;

use clap::builder::styling::AnsiColor;
use jobmill::{
    config::{Environment, Loaded},
    settings::StoreSettings,
};
use serde_json::json;

use super::{
    Global,
    exit::{Exit, Failure},
    serve::SourceArgs,
    table::{Table, plain},
    text,
    ui::Ui,
};

/// Diagnose an installation: configuration, data folder, disk, limits, handlers, port and server.
///
/// It reads the configuration as `jobmill serve` would. Run it as the user who runs the server.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Skip checks that may take long: the check of the database, the measurement of flushes, connections to endpoints
    #[arg(long)]
    quick: bool,
}

/// The result of a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Severity {
    Ok,
    Warning,
    Problem,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Problem => "problem",
        }
    }

    fn colour(self) -> AnsiColor {
        match self {
            Severity::Ok => AnsiColor::Green,
            Severity::Warning => AnsiColor::Yellow,
            Severity::Problem => AnsiColor::Red,
        }
    }
}

/// A finding of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    check: &'static str,
    verdict: Severity,
    message: String,
    /// The suggested fix; empty where all is well.
    way_out: String,
}

fn ok(check: &'static str, message: impl Into<String>) -> Finding {
    Finding { check, verdict: Severity::Ok, message: message.into(), way_out: String::new() }
}

fn warning(check: &'static str, message: impl Into<String>, way_out: impl Into<String>) -> Finding {
    Finding { check, verdict: Severity::Warning, message: message.into(), way_out: way_out.into() }
}

fn problem(check: &'static str, message: impl Into<String>, way_out: impl Into<String>) -> Finding {
    Finding { check, verdict: Severity::Problem, message: message.into(), way_out: way_out.into() }
}

/// Runs all checks. The exit code is 1 if there is a problem; warnings do not count.
pub(super) async fn run(args: Args, global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let quick = args.quick;
    let findings = match args.source.load(&Environment::of_process()) {
        Ok(loaded) => look_over(&loaded, quick, global, ui).await,
        Err(faults) => {
            let way_out = "correct it; nothing else was checked";
            faults
                .as_slice()
                .iter()
                .map(|fault| problem("configuration", fault.to_string(), way_out))
                .collect()
        }
    };
    let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Severity::Ok);
    if ui.is_json() {
        ui.print_json(&document(&findings, worst))?;
    } else {
        ui.print(&report(&findings, ui.colour))?;
    }
    Ok(if worst == Severity::Problem { Exit::JobFailed } else { Exit::Ok })
}

async fn look_over(loaded: &Loaded, quick: bool, global: &Global, ui: &Ui) -> Vec<Finding> {
    let settings = &loaded.settings;
    let mut findings = vec![ok(
        "configuration",
        match &loaded.file {
            Some(file) => format!("{} is valid", file.display()),
            None => "valid; no file was read".to_owned(),
        },
    )];
    match &settings.store {
        StoreSettings::Memory => findings.push(warning(
            "data folder",
            "jobs are kept in memory",
            "fine for trials; give the server a data_dir to keep them over a restart",
        )),
        StoreSettings::Folder(folder) => {
            findings.extend(folder::check(folder, settings, quick, ui.clock.now()));
        }
    }
    findings.push(process::clock(ui.clock.now()));
    findings.push(process::open_files(settings));
    findings.extend(handlers::check(loaded, quick).await);
    findings.extend(server::check(settings, global).await);
    findings
}

fn report(findings: &[Finding], colour: bool) -> String {
    let mut table = Table::new(["", "CHECK", "FOUND"], colour);
    for Finding { check, verdict, message, way_out } in findings {
        let arrow = if way_out.is_empty() { "" } else { " -> " };
        let found = format!("{}{arrow}{}", text::escape(message), text::escape(way_out));
        table.row([(verdict.as_str().to_owned(), Some(verdict.colour())), plain(*check), plain(found)]);
    }
    let count = |wanted: Severity| findings.iter().filter(|finding| finding.verdict == wanted).count() as u64;
    format!(
        "{}\n\n{}, {}\n",
        table.render(),
        text::counted(count(Severity::Problem), "problem"),
        text::counted(count(Severity::Warning), "warning")
    )
}

fn document(findings: &[Finding], worst: Severity) -> serde_json::Value {
    let checks = findings.iter().map(|Finding { check, verdict, message, way_out }| {
        json!({ "check": check, "verdict": verdict.as_str(), "message": message, "wayOut": way_out })
    });
    json!({ "verdict": worst.as_str(), "checks": checks.collect::<Vec<_>>() })
}
