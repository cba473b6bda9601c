//! Addresses to listen on and the URL of a collector.

use std::net::SocketAddr;

use serde_json::Value as Json;

use super::rules::{Rule, quote};

/// An address to listen on.
pub(super) struct Address;

impl Rule for Address {
    type Value = SocketAddr;

    fn wanted(&self) -> String {
        "an address and a port, such as \"127.0.0.1:7733\" or \"[::1]:7733\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| format!("{} is not an address; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &SocketAddr) -> Json {
        value.to_string().into()
    }
}

/// An address to listen on without TLS or tokens.
pub(super) struct Loopback;

impl Rule for Loopback {
    type Value = SocketAddr;

    fn wanted(&self) -> String {
        "an address and a port, such as \"127.0.0.1:9773\" or \"[::1]:9773\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<SocketAddr, String> {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("{} is not an address; write {}", quote(text), self.wanted()))?;
        if !address.ip().to_canonical().is_loopback() {
            return Err(format!(
                "{} is not a loopback address; this listens on loopback only: write {}",
                quote(text),
                self.wanted()
            ));
        }
        Ok(address)
    }

    fn show(&self, value: &SocketAddr) -> Json {
        Address.show(value)
    }
}

/// The URL of a collector of traces.
pub(super) struct CollectorUrl;

impl Rule for CollectorUrl {
    type Value = String;

    fn wanted(&self) -> String {
        "a URL with a host and a port, such as \"http://127.0.0.1:4317\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        // The text is not shown, because it may hold a password.
        let refused = |what: &str| Err(format!("{what}; write {}", self.wanted()));
        let Ok(url) = text.parse::<http::Uri>() else {
            return refused("this is not a URL");
        };
        match (url.scheme_str(), url.authority()) {
            (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
                refused("the URL has a user or a password; headers go into OTEL_EXPORTER_OTLP_HEADERS")
            }
            (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
            (Some(_) | None, _) => refused("the URL does not start with http:// or https:// and a host"),
        }
    }

    fn show(&self, value: &String) -> Json {
        value.as_str().into()
    }
}
