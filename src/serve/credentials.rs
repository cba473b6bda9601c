//! Certificates and tokens, reloaded when their files change.

use std::{
    convert::Infallible,
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use super::ServeError;
use crate::{
    access::Access,
    api::Gate,
    audit::{self, Audit},
    clock::Clock,
    config::load_tokens,
    listen::Hosts,
    settings::Settings,
    tls::Tls,
};

/// Interval between checks of the files. A changed file is read only once it is unchanged from one check to the next,
/// since its writer may not have finished.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Time before a certificate's expiry from which the log warns of it.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Certificates, tokens and the audit log.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) tls: Option<Arc<Tls>>,
    access: Arc<Access>,
    audit: Arc<Audit>,
    tokens: Option<PathBuf>,
    clock: Clock,
}

impl Credentials {
    /// Reads certificates and tokens, and opens the audit log.
    pub(super) fn load(settings: &Settings, clock: &Clock) -> Result<Self, ServeError> {
        if settings.is_exposed() {
            return Err(ServeError::Exposed(settings.listen));
        }
        if settings.lacks_protection() {
            tracing::warn!(
                listen = %settings.listen,
                "listening without TLS and tokens, as `insecure` is set: any client that reaches this \
                 address can run this server's commands"
            );
        }
        let with_http1 = !settings.web_origins.is_empty();
        let tls = settings.tls.clone().map(|files| Tls::load(files, with_http1)).transpose();
        let tls = tls.map_err(|errors| ServeError::Credentials(listed(&errors)))?;
        let tokens = settings.tokens.as_deref().map(load_tokens).transpose();
        let tokens = tokens.map_err(|faults| ServeError::Credentials(faults.to_string()))?;
        let asks = tokens.is_some() || tls.as_ref().is_some_and(|tls| tls.settings().client_ca.is_some());
        let audit = match &settings.audit_file {
            Some(path) => Audit::to_file(path, clock.clone())
                .map_err(|source| ServeError::Audit { path: path.clone(), source })?,
            None if asks => Audit::to_log(clock.clone())
                .map_err(|source| ServeError::Audit { path: audit::TARGET.into(), source })?,
            None => Audit::off(),
        };
        let credentials = Credentials {
            tls: tls.map(Arc::new),
            access: Arc::new(Access::new(tokens, clock.clone())),
            audit: Arc::new(audit),
            tokens: settings.tokens.clone(),
            clock: clock.clone(),
        };
        credentials.warn_of_expiry();
        Ok(credentials)
    }

    /// Returns the audit log for handshakes and calls.
    pub(super) fn audit(&self) -> Arc<Audit> {
        Arc::clone(&self.audit)
    }

    /// Returns the rules by which calls are admitted.
    pub(super) fn gate(&self, settings: &Settings) -> Gate {
        let checks_host = settings.listens_on_loopback() && self.tls.is_none();
        Gate {
            access: Arc::clone(&self.access),
            audit: Arc::clone(&self.audit),
            hosts: if checks_host { Hosts::local_and(&settings.hosts) } else { Hosts::ANY },
            origins: settings.web_origins.as_slice().into(),
        }
    }

    /// Reloads files once they have changed, or at once on request.
    pub(super) async fn follow(self: Arc<Self>, asked: Arc<Notify>) -> Infallible {
        let mut read = self.stamps();
        let mut last = read.clone();
        let has_files = self.tls.is_some() || self.tokens.is_some();
        loop {
            let by_request = tokio::select! {
                () = asked.notified() => true,
                () = self.clock.sleep_until(self.clock.uptime().after(LOOK_EVERY)), if has_files => false,
            };
            let own = Arc::clone(&self);
            let before = (read.clone(), last);
            // File access may block on a slow disk.
            let looked = tokio::task::spawn_blocking(move || own.look(before, by_request)).await;
            (read, last) = looked.unwrap_or_else(|_| (read.clone(), read));
        }
    }

    fn stamps(&self) -> Stamps {
        let tls = self.tls.as_ref().map(|tls| {
            let files = tls.settings();
            [Some(stamp(&files.certificate)), Some(stamp(&files.key)), files.client_ca.as_deref().map(stamp)]
        });
        Stamps { tls, tokens: self.tokens.as_deref().map(stamp) }
    }

    /// Reads files that have changed since they were read, but not since the last check. Returns the new pair of
    /// stamps.
    fn look(&self, (read, last): (Stamps, Stamps), by_request: bool) -> (Stamps, Stamps) {
        // Stamps are taken before the files are read, so a file that changes meanwhile is read again.
        let now = self.stamps();
        if !by_request && (now == read || now != last) {
            return (read, now);
        }
        if let Some(tls) = &self.tls
            && (by_request || now.tls != read.tls)
        {
            match tls.reload() {
                Ok(()) => {
                    tracing::info!("reloaded the certificates");
                    self.warn_of_expiry();
                }
                Err(errors) => kept("certificates", listed(&errors)),
            }
        }
        if let Some(path) = &self.tokens
            && (by_request || now.tokens != read.tokens)
        {
            match load_tokens(path) {
                Ok(tokens) => {
                    self.access.replace(tokens);
                    tracing::info!("reloaded the tokens");
                }
                Err(faults) => kept("tokens", faults),
            }
        }
        if by_request {
            self.audit.reopen();
        }
        (now.clone(), now)
    }

    fn warn_of_expiry(&self) {
        let Some(tls) = &self.tls else { return };
        let now = self.clock.now();
        let (begins, expires) = tls.validity();
        if begins > now {
            tracing::warn!(%now, %begins, "the server's certificate is not valid yet: is the clock right?");
        } else if expires <= now {
            tracing::warn!(%now, %expires, "the server's certificate has expired: clients will refuse it");
        } else if expires.since(now) < EXPIRES_SOON {
            tracing::warn!(%expires, "the server's certificate expires soon");
        }
    }
}

/// Logs that new files are invalid; the server goes on with the old ones.
fn kept(what: &str, problem: impl fmt::Display) {
    tracing::error!(%problem, "the new {what} can't be used; the old ones stay");
}

fn listed(errors: &[impl fmt::Display]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Modification time, size and inode of a file; `None` if it can't be read.
type Stamp = Option<(SystemTime, u64, u64)>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Stamps {
    tls: Option<[Option<Stamp>; 3]>,
    tokens: Option<Stamp>,
}

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}
