//! Where log lines go: to stderr, for people or for machines.

use std::{env, io, io::IsTerminal};

use anyhow::{Context, anyhow};
use jobmill::config::{LogFormat, LogSettings};
use tracing_subscriber::EnvFilter;

/// Starts the log. Lines for people have colours on a terminal, unless `NO_COLOR` is set.
///
/// # Errors
/// The filter is none, or the log was started before.
pub(crate) fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&settings.filter).context("the log filter is not valid")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match settings.format {
        LogFormat::Text => lines.with_ansi(colour).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow!("the log could not be started: {error}"))
}
