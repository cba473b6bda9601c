//! Checks of the handlers: programs, endpoints, and the files of their secrets.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use jobmill::{config::Loaded, settings::HandlerSettings};

use super::{Finding, ok, warning};

const HANDLERS: &str = "handlers";
const SECRETS: &str = "secrets";

/// Checks the handlers. The programs themselves were found when the configuration was read.
pub(super) async fn check(loaded: &Loaded, quick: bool) -> Vec<Finding> {
    let kinds = &loaded.settings.kinds;
    if kinds.is_empty() {
        let way_out = "add [kinds.\"NAME\"] with a command or a url to the configuration file";
        return vec![warning(HANDLERS, "no kind is declared, so that no job is accepted", way_out)];
    }
    let commands = kinds.values().filter(|kind| matches!(kind.handler, HandlerSettings::Command(_))).count();
    let mut findings = Vec::new();
    if commands > 0 {
        findings.push(ok(HANDLERS, format!("{commands} of {} kinds run commands, all found", kinds.len())));
    }
    #[cfg(feature = "http")]
    if !quick {
        findings.extend(endpoints(loaded).await);
    }
    #[cfg(not(feature = "http"))]
    let _ = quick;
    findings.extend(secrets(loaded));
    findings
}

/// Connects to each endpoint, without sending a request.
#[cfg(feature = "http")]
async fn endpoints(loaded: &Loaded) -> Vec<Finding> {
    use jobmill::execute::http::HttpHandler;

    let mut findings = Vec::new();
    for (name, kind) in &loaded.settings.kinds {
        let HandlerSettings::Http(settings) = &kind.handler else { continue };
        let reached = match HttpHandler::new((**settings).clone(), jobmill::clock::Clock::System) {
            Ok(handler) => handler.reach().await.map_err(|error| error.message().to_owned()),
            Err(error) => Err(error.to_string()),
        };
        findings.push(match reached {
            Ok(()) => ok(HANDLERS, format!("the endpoint of {name} can be connected to")),
            Err(error) => warning(
                HANDLERS,
                format!("the endpoint of {name}: {error}"),
                "start it, or correct the url; until then its jobs are retried or fail",
            ),
        });
    }
    findings
}

/// Checks for files of signing secrets that other users may read.
fn secrets(loaded: &Loaded) -> Vec<Finding> {
    let mut findings = Vec::new();
    for entry in loaded.entries.iter().filter(|entry| entry.key.ends_with(".signing_secret_files")) {
        for path in entry.value.as_array().into_iter().flatten().filter_map(|path| path.as_str()) {
            let mode = fs::metadata(Path::new(path)).map_or(0, |metadata| metadata.mode() & 0o777);
            if mode & 0o007 != 0 {
                let message = format!("{path} is open to everyone (mode {mode:03o})");
                findings.push(warning(SECRETS, message, format!("chmod o= {path}")));
            }
        }
    }
    findings
}
