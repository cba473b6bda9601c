//! `jobmill token`: creates tokens. It calls no server: the operator adds the entry to the server's file of tokens.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jobmill::{
    clock::Clock,
    settings::{QueuePattern, Role, TOKEN_PREFIX, TokenHash, check_token_name},
};
use serde_json::json;

use super::{
    exit::{Exit, Failure},
    ui::Ui,
    values,
};

/// The verbs of `jobmill token`.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a token, and the entry for the server's file of tokens
    ///
    /// The entry goes to stdout, to be appended to that file; the token goes to stderr, or to a file of its own. The
    /// token is shown only once: the entry holds only its hash.
    New(New),
}

/// The new token.
#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// Name of the token's holder, as shown in the audit
    name: String,
    /// Role that the token grants: submit, read, cancel, work, or admin, which includes the others; may be repeated
    #[arg(long, required = true, value_name = "ROLE", value_parser = role)]
    role: Vec<Role>,
    /// Queues that the token is valid for, with * for any characters; may be repeated
    #[arg(long, default_value = "*", value_name = "PATTERN")]
    queues: Vec<QueuePattern>,
    /// Lifetime of the token, such as 90days
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration)]
    expires: Option<Duration>,
    /// Write the token to this new file, which is readable by its owner only
    #[arg(long, value_name = "PATH")]
    save: Option<PathBuf>,
}

fn role(text: &str) -> Result<Role, String> {
    let names = || Role::ALL.map(Role::as_str).join(", ");
    Role::named(text).ok_or_else(|| format!("one of {}", names()))
}

/// Runs `jobmill token`.
pub(super) fn run(command: Command, ui: &Ui) -> Result<Exit, Failure> {
    let Command::New(New { name, role, queues, expires, save }) = command;
    check_token_name(&name).map_err(|error| Failure::usage(error.to_string()))?;
    let token = format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let expires = expires.map(|expires| Clock::System.now().after(expires).to_string());
    let entry = entry(&name, &token, &role, &queues, expires.as_deref());
    if let Some(path) = &save {
        write(path, &token)?;
    }
    let shown = save.is_none().then_some(&token);
    if ui.is_json() {
        ui.print_json(&json!({ "name": name, "token": shown, "entry": entry }))?;
    } else {
        if let Some(token) = shown {
            // The token is shown before the entry, which is of no use if showing it fails.
            writeln!(io::stderr(), "The token, shown this once: {token}").map_err(|error| {
                Failure::new(Exit::Internal, format!("the token can't be shown on stderr: {error}"))
                    .with_next("Have it written to a file with --save.")
            })?;
        }
        ui.print_raw(entry.as_bytes())?;
    }
    Ok(Exit::Ok)
}

/// Returns the token's entry for the server's file of tokens.
fn entry(name: &str, token: &str, roles: &[Role], queues: &[QueuePattern], expires: Option<&str>) -> String {
    let list = |texts: Vec<String>| toml::Value::from(texts).to_string();
    let key = toml::Value::from(name).to_string();
    let roles = list(roles.iter().map(ToString::to_string).collect());
    let queues = list(queues.iter().map(ToString::to_string).collect());
    let hash = TokenHash::of(token);
    let mut entry = format!("[tokens.{key}]\nhash = \"sha256:{hash}\"\nroles = {roles}\nqueues = {queues}\n");
    if let Some(expires) = expires {
        entry.push_str(&format!("expires = {expires}\n"));
    }
    entry
}

fn write(path: &Path, token: &str) -> Result<(), Failure> {
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| writeln!(file, "{token}"))
        .map_err(|error| {
            let failure = Failure::usage(format!("{} can't be written: {error}", path.display()));
            if error.kind() == io::ErrorKind::AlreadyExists {
                failure.with_next("A file that exists is never replaced: name another one with --save.")
            } else {
                failure
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::{access::Access, config::load_tokens};

    #[test]
    fn an_entry_lets_its_token_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        let queues: Vec<QueuePattern> = vec!["mail*".parse().unwrap()];
        let name = "Ada \"the\" ci.1";
        let text = entry(name, "secret", &[Role::Submit, Role::Read], &queues, Some("2999-01-01T00:00:00Z"))
            + &entry("b", "other", &[Role::Admin], &queues, None);
        std::fs::write(&path, &text).unwrap();
        let access = Access::new(Some(load_tokens(&path).unwrap()), Clock::System);
        let subject = access.admit(Some("secret"), None).unwrap();
        assert_eq!(subject.name(), Some(name));
        assert!(subject.may(Role::Read, "mail.x") && !subject.may(Role::Read, "x"));
        access.admit(Some("other"), None).unwrap();
        assert!(!text.contains("secret"));
    }

    #[test]
    fn a_tokens_file_is_its_owners_and_never_replaced() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        write(&path, "one").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write(&path, "two").unwrap_err().exit(), Exit::Usage);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\n");
    }
}
