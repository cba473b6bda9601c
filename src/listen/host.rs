//! The check of the host names by which a server is called, against DNS rebinding.
//!
//! A web page can make its own host name resolve to this machine, and so reach a server that listens on loopback.
//! Browsers always send the host name that they call.

use std::{net::IpAddr, sync::Arc};

use http::{
    HeaderMap, Uri,
    header::{HOST, HeaderValue},
    uri::Authority,
};

/// The host names by which a server may be called.
#[derive(Clone, Debug)]
pub(crate) struct Hosts(Option<Arc<[String]>>);

impl Hosts {
    /// Any host name is allowed.
    pub(crate) const ANY: Hosts = Hosts(None);

    /// Allows `localhost`, loopback addresses, and the given names.
    pub(crate) fn local_and(names: &[String]) -> Self {
        Hosts(Some(names.into()))
    }

    /// Checks all host names that a request carries, in its URI and its `Host` headers, if there are any.
    ///
    /// # Errors
    /// The first name that is not allowed; empty if it is not a valid name.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let Some(allowed) = &self.0 else { return Ok(()) };
        let read = |value: &HeaderValue| value.to_str().ok()?.parse::<Authority>().ok();
        let names = uri.authority().cloned().map(Some).into_iter();
        for name in names.chain(headers.get_all(HOST).iter().map(read)) {
            let host = name.as_ref().map_or("", Authority::host);
            if !is_local(host) && !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
                return Err(host.to_owned());
            }
        }
        Ok(())
    }
}

fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_allowed(uri: &str, headers: &[&str]) -> bool {
        let hosts = Hosts::local_and(&["jobs.internal".to_owned()]);
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(HOST, HeaderValue::from_str(header).unwrap());
        }
        hosts.check(&uri.parse().unwrap(), &map).is_ok()
    }

    #[test]
    fn only_names_of_this_machine_are_allowed() {
        for host in [
            "localhost",
            "LOCALHOST:7733",
            "127.0.0.1:7733",
            "127.9.9.9",
            "[::1]:7733",
            "[::ffff:127.0.0.1]",
            "Jobs.Internal:1",
        ] {
            assert!(is_allowed("/", &[host]), "{host}");
        }
        for host in [
            "",
            " ",
            "evil.example",
            "localhost.evil.example",
            "evil.example:localhost",
            "localhost@evil.example",
            "127.0.0.1.nip.io",
            "127.0.0.1.",
            "localhost.",
            "0.0.0.0",
            "[::]",
            "0x7f.1",
            "2130706433",
            "192.0.2.1",
            "jobs.internal.evil.example",
        ] {
            assert!(!is_allowed("/", &[host]), "{host:?}");
        }
    }

    #[test]
    fn every_name_that_is_said_counts() {
        assert!(is_allowed("/", &[]));
        assert!(is_allowed("http://localhost/", &["127.0.0.1"]));
        assert!(!is_allowed("http://evil.example/", &["localhost"]));
        assert!(!is_allowed("http://localhost/", &["evil.example"]));
        assert!(!is_allowed("/", &["localhost", "evil.example"]));
        assert!(!is_allowed("/", &["evil.example", "localhost"]));
    }
}
