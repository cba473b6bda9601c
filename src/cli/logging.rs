//! Where log lines go: to stderr, for people or for machines.

use std::{env, io, io::IsTerminal};

use anyhow::{Context, anyhow};
use jobmill::config::{LogFormat, LogSettings};
use tracing_subscriber::EnvFilter;

/// Libraries that have a line for what any stranger sends: without an end, and nothing of use to the operator.
const TALKATIVE: [&str; 2] = ["h2", "rustls"];

/// Starts the log. Lines for people have colours on a terminal, unless `NO_COLOR` is set.
///
/// # Errors
/// The filter is none, or the log was started before.
pub(crate) fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let filter = filter(&settings.filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    match settings.format {
        LogFormat::Text => lines.with_ansi(colour).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow!("the log could not be started: {error}"))
}

/// The filter that `text` is. Libraries that strangers make talk are heard only where it names them.
fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    let quiet = TALKATIVE.iter().filter(|library| !text.contains(*library));
    let all = quiet.map(|library| format!("{library}=off")).chain([text.to_owned()]);
    let all = all.filter(|directive| !directive.is_empty()).collect::<Vec<_>>().join(",");
    EnvFilter::builder().parse(&all).context("the log filter is not valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_do_not_write_the_log() {
        for (text, expected) in [
            ("info", "h2=off,rustls=off,info"),
            ("", "h2=off,rustls=off"),
            ("warn,rustls=debug", "rustls=debug,h2=off,warn"),
            ("h2=trace,rustls=info", "rustls=info,h2=trace"),
        ] {
            let mut shown: Vec<_> = filter(text).unwrap().to_string().split(',').map(str::to_owned).collect();
            let mut expected: Vec<_> = expected.split(',').collect();
            shown.sort();
            expected.sort_unstable();
            assert_eq!(shown, expected, "{text}");
        }
    }
}
