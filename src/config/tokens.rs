//! The token file: read like the configuration, with the place of every fault.

use std::path::Path;

use super::{
    document::{self, parse},
    fault::{Fault, Faults, SettingSource, SourceText},
    rules::{Instant, Rule, quote},
    section::{Reading, Section},
};
use crate::{
    access::Tokens,
    settings::{PatternError, QueuePattern, Role, Token, TokenHash, check_token_name, limits},
};

const TOKEN_KEYS: [&str; 4] = ["hash", "roles", "queues", "expires"];

/// Reads a token file.
///
/// # Errors
/// All faults of the file.
pub fn load_tokens(path: &Path) -> Result<Tokens, Faults> {
    let mut faults = Vec::new();
    let place = SettingSource::File { path: path.into(), line: 1, column: 1 };
    let tokens = read(path, &place, &mut faults);
    Faults::check(faults)?;
    Ok(Tokens::new(tokens))
}

/// Reads a token file. A file that can't be read at all is a fault at `place`.
pub(super) fn read(path: &Path, place: &SettingSource, faults: &mut Vec<Fault>) -> Vec<Token> {
    let text = document::read(path).map_err(|error| error.to_string()).and_then(|bytes| {
        if bytes.len() as u64 > limits::FILE_BYTES_MAX {
            return Err(format!("it is over the limit of {} bytes", limits::FILE_BYTES_MAX));
        }
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
    });
    let source = match text {
        Ok(text) => SourceText::new(path.to_owned(), text),
        Err(problem) => {
            let shown = quote(&path.to_string_lossy());
            let message = format!(
                "{shown} can't be read: {problem}; name a file that this user may read, or make one with `jobmill token new`"
            );
            faults.push(Fault { place: place.clone(), key: "auth.tokens".to_owned(), message });
            return Vec::new();
        }
    };
    let Some(document) = parse(&source, faults) else {
        return Vec::new();
    };
    let mut reading = Reading::new(Some(&source), std::mem::take(faults));
    let root = Section::open(String::new(), Some(&document), &["tokens"], &mut reading);
    let table = root.table("tokens", &mut reading);
    let names = Section::of_names("tokens", table);
    let mut tokens: Vec<Token> = Vec::new();
    for key in table.into_iter().flat_map(|table| table.keys()) {
        let name = key.get_ref();
        if let Err(error) = check_token_name(name) {
            reading.fault_at(&key.span(), names.key(name), error.to_string());
            continue;
        }
        let Some(entry) = names.table(name, &mut reading) else { continue };
        let section = Section::open(names.key(name), Some(entry), &TOKEN_KEYS, &mut reading);
        for (required, way_out) in [
            ("hash", "`jobmill token new` writes the whole entry"),
            ("roles", "write roles = [\"read\"], or more of them"),
            ("queues", "write queues = [\"*\"] for all"),
        ] {
            if section.get(required).is_none() {
                let message = format!("the token has no `{required}`; {way_out}");
                reading.fault_at(&key.span(), names.key(name), message);
            }
        }
        let hash = section.read("hash", &Hash, &mut reading);
        let (roles, _) = section.elements("roles", Role::ALL.len(), &RoleName, &mut reading);
        let (queues, _) = section.elements("queues", limits::TOKEN_QUEUES_MAX, &Pattern, &mut reading);
        let expires = section.read("expires", &Instant, &mut reading);
        let Some((hash, _)) = hash else { continue };
        if let Some(twin) = tokens.iter().find(|token| token.hash == hash) {
            let message =
                format!("the token is that of {} too; give each name a token of its own", quote(&twin.name));
            reading.fault_at(&key.span(), names.key(name), message);
        }
        let expires = expires.map(|(expires, _)| expires);
        tokens.push(Token { name: name.as_ref().into(), hash, roles, queues, expires });
    }
    if tokens.len() > limits::TOKENS_MAX {
        let message = format!("there are {} of them, the limit is {}", tokens.len(), limits::TOKENS_MAX);
        reading.fault_at(&root.key_span("tokens"), "tokens", message);
    }
    *faults = reading.faults;
    tokens
}

/// The hash of a token.
struct Hash;

impl Rule for Hash {
    type Value = TokenHash;

    fn wanted(&self) -> String {
        "\"sha256:\" and 64 hexadecimal digits".to_owned()
    }

    fn text(&self, text: &str) -> Result<TokenHash, String> {
        // The text is not quoted, because it may be the token itself.
        text.strip_prefix("sha256:")
            .and_then(TokenHash::from_hex)
            .ok_or_else(|| format!("this is not the hash of a token; write {}", self.wanted()))
    }

    fn value(&self, value: &toml::de::DeValue<'_>) -> Result<TokenHash, String> {
        self.text(value.as_str().unwrap_or_default())
    }

    fn show(&self, value: &TokenHash) -> serde_json::Value {
        value.to_string().into()
    }
}

/// A role's name.
struct RoleName;

impl Rule for RoleName {
    type Value = Role;

    fn wanted(&self) -> String {
        Role::ALL.map(|role| format!("{:?}", role.as_str())).join(", ")
    }

    fn text(&self, text: &str) -> Result<Role, String> {
        Role::named(text)
            .ok_or_else(|| format!("{} is not a role; write one of {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &Role) -> serde_json::Value {
        value.as_str().into()
    }
}

/// A pattern for queues.
struct Pattern;

impl Rule for Pattern {
    type Value = QueuePattern;

    fn wanted(&self) -> String {
        "a queue's name in quotes, with `*` for any characters".to_owned()
    }

    fn text(&self, text: &str) -> Result<QueuePattern, String> {
        text.parse().map_err(|error: PatternError| error.to_string())
    }

    fn show(&self, value: &QueuePattern) -> serde_json::Value {
        value.to_string().into()
    }
}
