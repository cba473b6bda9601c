//! Endpoints: kinds that are mapped to a URL.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use serde_json::Value as Json;

use super::{
    context::Context,
    environment::Environment,
    fault::SettingSource,
    kind_defaults::{snooze_delay, snooze_pauses},
    paths::path_from,
    rules::{Bool, DurationIn, IntIn, Rule, quote},
    section::{Reading, Section},
};
use crate::settings::{
    Authorities, HandlerSettings, HttpSettings, HttpUrl, SecretError, SigningSecret, Targets,
    http::{CONNECT_TIMEOUT, CONNECTION_WAIT, IDLE_TIMEOUT, MAX_CONNECTIONS},
    limits,
};

/// Reads the endpoint of a kind. Returns `None` where its URL is wrong, which is a fault already.
pub(super) fn endpoint(
    section: &Section<'_>,
    context: &Context<'_>,
    reading: &mut Reading<'_>,
) -> Option<HandlerSettings> {
    let url = section.read("url", &UrlRule, reading);
    if let Some((url, place)) = &url {
        reading.entry(section.key("url"), UrlRule.show(url), place.clone());
    }
    let headers = headers(section, reading);
    let max = limits::SIGNING_SECRETS_MAX;
    let files = SecretFile { base: context.base };
    let files = section.list_setting("signing_secret_files", max, &files, reading);
    let variables = SecretVariable { environment: context.environment };
    let variables = section.list_setting("signing_secret_env", max, &variables, reading);
    let targets = Targets {
        allow_private: section.setting("allow_private", &Bool, false, reading),
        allow_networks: section.list_setting("allow_networks", limits::NETWORKS_MAX, &NetworkRule, reading),
    };
    let authorities = section.optional("ca_file", &AuthoritiesFile { base: context.base }, reading);
    let connect_timeout = DurationIn(limits::CONNECT_TIMEOUT);
    let connect_timeout = section.setting("connect_timeout", &connect_timeout, CONNECT_TIMEOUT, reading);
    let max_connections = IntIn(limits::HTTP_CONNECTIONS);
    let max_connections = section.setting("max_connections", &max_connections, MAX_CONNECTIONS, reading);
    let connection_wait = DurationIn(limits::CONNECTION_WAIT);
    let connection_wait = section.setting("connection_wait", &connection_wait, CONNECTION_WAIT, reading);
    let idle_timeout = DurationIn(limits::IDLE_TIMEOUT);
    let idle_timeout = section.setting("idle_timeout", &idle_timeout, IDLE_TIMEOUT, reading);
    let statuses = IntIn(200..=599);
    let snooze_statuses =
        section.list_setting("snooze_statuses", limits::SNOOZE_STATUSES_MAX, &statuses, reading);
    let snooze_delay = snooze_delay(section, reading);
    let snooze_pauses = snooze_pauses(section, reading);
    let callback_url = section.optional("callback_url", &CallbackUrlRule, reading);

    let (url, _) = url?;
    if let (Ok(address), Some(value)) = (url.host().parse::<IpAddr>(), section.get("url"))
        && let Err(refused) = targets.check(address)
    {
        reading.fault_at(&value.span(), section.key("url"), refused.to_string());
    }
    let secrets = files.into_iter().map(|(_, secret)| secret);
    Some(HandlerSettings::Http(Box::new(HttpSettings {
        url,
        headers,
        signing_secrets: secrets.chain(variables.into_iter().map(|(_, secret)| secret)).collect(),
        targets,
        authorities: authorities.map(|(_, authorities)| authorities),
        connect_timeout,
        max_connections,
        connection_wait,
        idle_timeout,
        snooze_statuses,
        snooze_delay,
        snooze_pauses,
        callback_url,
    })))
}

/// Reads the operator's own headers. Their values may be secrets, and are never shown.
fn headers(section: &Section<'_>, reading: &mut Reading<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let table = section.table("headers", reading);
    let inner = Section::open(section.key("headers"), None, &[], reading);
    if let Some(table) = table.filter(|table| table.len() > limits::HEADERS_MAX) {
        let (len, max) = (table.len(), limits::HEADERS_MAX);
        let message = format!("there are {len} headers, the limit is {max}; give fewer");
        reading.fault_at(&section.key_span("headers"), section.key("headers"), message);
    }
    for (name, value) in table.into_iter().flatten() {
        match value.get_ref().as_str().map(|text| header(name.get_ref(), text)) {
            Some(Ok((header, value))) => {
                if headers.insert(header, value).is_some() {
                    let problem = "the header is given twice, in upper and lower case; keep one of them";
                    reading.fault_at(&name.span(), inner.key(name.get_ref()), problem);
                }
            }
            Some(Err(problem)) => reading.fault_at(&name.span(), inner.key(name.get_ref()), problem),
            None => {
                let problem = "the value is not text; put it in quotes";
                reading.fault_at(&value.span(), inner.key(name.get_ref()), problem);
            }
        }
    }
    let place = table.map_or(SettingSource::Default, |_| reading.place(&section.key_span("headers")));
    let names = headers.keys().map(HeaderName::as_str).collect();
    reading.entry(section.key("headers"), names, place);
    headers
}

/// The URL of an endpoint.
pub(super) struct UrlRule;

impl Rule for UrlRule {
    type Value = HttpUrl;

    fn wanted(&self) -> String {
        "the URL of an endpoint, such as \"https://example.org/jobs\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<HttpUrl, String> {
        if text.len() > limits::URL_BYTES_MAX {
            return Err(format!(
                "the URL has {} bytes, the limit is {}; write a shorter one",
                text.len(),
                limits::URL_BYTES_MAX
            ));
        }
        // The text is not quoted: it may hold a secret.
        text.parse().map_err(|error| format!("the URL can't be used: {error}; write {}", self.wanted()))
    }

    fn show(&self, value: &HttpUrl) -> Json {
        value.to_string().into()
    }
}

/// The URL by which an endpoint reaches this program.
pub(super) struct CallbackUrlRule;

impl Rule for CallbackUrlRule {
    type Value = HttpUrl;

    fn wanted(&self) -> String {
        "the URL of the address of metrics and health, such as \"http://127.0.0.1:9773\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<HttpUrl, String> {
        let url = UrlRule.text(text)?;
        match url.uri().query() {
            Some(_) => {
                Err(format!("the URL has a query; leave out all from the ? on, as in {}", self.wanted()))
            }
            None => Ok(url),
        }
    }

    fn show(&self, value: &HttpUrl) -> Json {
        value.to_string().into()
    }
}

/// A network in CIDR notation, or a lone address.
pub(super) struct NetworkRule;

impl Rule for NetworkRule {
    type Value = IpNet;

    fn wanted(&self) -> String {
        "a network, such as \"10.1.0.0/16\", or an address".to_owned()
    }

    fn text(&self, text: &str) -> Result<IpNet, String> {
        let lone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let Some(network) = text.parse::<IpNet>().ok().or_else(lone) else {
            return Err(format!("{} is not a network; write {}", quote(text), self.wanted()));
        };
        if network.trunc() != network {
            return Err(format!("{} has bits beyond its prefix; write \"{}\"", quote(text), network.trunc()));
        }
        Ok(network)
    }

    fn show(&self, value: &IpNet) -> Json {
        value.to_string().into()
    }
}

/// A file with a signing secret.
pub(super) struct SecretFile<'a> {
    pub(super) base: &'a Path,
}

impl Rule for SecretFile<'_> {
    type Value = (PathBuf, SigningSecret);

    fn wanted(&self) -> String {
        "the path of a file with a signing secret".to_owned()
    }

    fn text(&self, text: &str) -> Result<Self::Value, String> {
        let path = path_from(self.base, text, &self.wanted())?;
        let bytes = read(&path)?;
        let text = String::from_utf8(bytes).map_err(|_| SecretError::Encoding.to_string());
        let secret = text.and_then(|text| text.parse().map_err(|error: SecretError| error.to_string()));
        secret.map(|secret| (path.clone(), secret)).map_err(|problem| in_file(&path, &problem))
    }

    fn show(&self, (path, _): &Self::Value) -> Json {
        path.to_string_lossy().into()
    }
}

/// An environment variable of the server that holds a signing secret.
pub(super) struct SecretVariable<'a> {
    pub(super) environment: &'a Environment,
}

impl Rule for SecretVariable<'_> {
    type Value = (String, SigningSecret);

    fn wanted(&self) -> String {
        "the name of a variable that holds a signing secret".to_owned()
    }

    fn text(&self, text: &str) -> Result<Self::Value, String> {
        let Some(value) = self.environment.variable(text) else {
            return Err(format!(
                "the variable {} is not set; set it, or write {}",
                quote(text),
                self.wanted()
            ));
        };
        let secret = value.to_str().unwrap_or_default().parse();
        secret
            .map(|secret| (text.to_owned(), secret))
            .map_err(|error: SecretError| format!("in the variable {}: {error}", quote(text)))
    }

    fn show(&self, (name, _): &Self::Value) -> Json {
        name.as_str().into()
    }
}

/// A file with the certificates of authorities.
pub(super) struct AuthoritiesFile<'a> {
    pub(super) base: &'a Path,
}

impl Rule for AuthoritiesFile<'_> {
    type Value = (PathBuf, Authorities);

    fn wanted(&self) -> String {
        "the path of a file with the certificates of authorities in PEM form".to_owned()
    }

    fn text(&self, text: &str) -> Result<Self::Value, String> {
        let path = path_from(self.base, text, &self.wanted())?;
        match Authorities::from_pem(&read(&path)?) {
            Ok(authorities) => Ok((path, authorities)),
            Err(problem) => {
                Err(format!("{} {problem}; write {}", quote(&path.to_string_lossy()), self.wanted()))
            }
        }
    }

    fn show(&self, (path, _): &Self::Value) -> Json {
        path.to_string_lossy().into()
    }
}

fn in_file(path: &Path, problem: &str) -> String {
    format!("in {}: {problem}", quote(&path.to_string_lossy()))
}

/// Reads a small file.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        let max = limits::CREDENTIAL_FILE_BYTES_MAX;
        match file.take(max + 1).read_to_end(&mut bytes)? as u64 > max {
            true => Err(io::Error::other(format!("it is over the limit of {max} bytes"))),
            false => Ok(()),
        }
    });
    let shown = quote(&path.to_string_lossy());
    read.map(|()| bytes)
        .map_err(|error| format!("{shown} can't be read: {error}; name a file that this user may read"))
}

/// Headers that Jobmill or HTTP itself sets.
const RESERVED_HEADERS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "idempotency-key",
    "keep-alive",
    "proxy-connection",
    "te",
    "traceparent",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// Parses a header of the operator's own. Its value may be a secret, and is not quoted in messages.
pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let Ok(parsed) = name.parse::<HeaderName>() else {
        return Err("this is not the name of a header; write one such as \"Authorization\"".to_owned());
    };
    let lower = parsed.as_str();
    if RESERVED_HEADERS.contains(&lower) || lower.starts_with("jobmill-") || lower.starts_with("webhook-") {
        return Err("this header is set by Jobmill itself; leave it out".to_owned());
    }
    if value.len() > limits::HEADER_BYTES_MAX {
        let (len, max) = (value.len(), limits::HEADER_BYTES_MAX);
        return Err(format!("the value has {len} bytes, the limit is {max}; write a shorter one"));
    }
    let Ok(mut value) = HeaderValue::from_str(value) else {
        return Err(
            "the value has a line break or another character that no header can have; write it without"
                .to_owned(),
        );
    };
    value.set_sensitive(true);
    Ok((parsed, value))
}
