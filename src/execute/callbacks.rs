//! Calls back from endpoints: each running attempt has a secret of its own, which ends with the attempt.
//!
//! A secret is 256 random bits. Only its SHA-256 is kept, and looked up by: the time that a look-up takes tells nothing
//! about a secret, as a guess can't choose its hash.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

#[cfg(feature = "http")]
use super::Attempt;
use super::{Committed, ReportSink};
use crate::job::Output;

type Hash = [u8; 32];

/// The running attempts that may be called back, by the hash of their secrets. Clones share them.
#[derive(Clone, Default)]
pub struct Callbacks(Arc<Mutex<HashMap<Hash, Weak<dyn ReportSink>>>>);

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callbacks").field("open", &self.0.lock().len()).finish_non_exhaustive()
    }
}

/// The permission to call an attempt back. It ends when this is dropped.
#[cfg(feature = "http")]
pub(crate) struct OpenCallback {
    callbacks: Callbacks,
    hash: Hash,
    secret: String,
}

/// An attempt that is called back.
pub(crate) struct CalledAttempt(Arc<dyn ReportSink>);

fn hash_of(secret: &str) -> Hash {
    Sha256::digest(secret).into()
}

impl Callbacks {
    /// Creates a secret for an attempt.
    #[cfg(feature = "http")]
    pub(crate) fn open(&self, attempt: &Attempt) -> OpenCallback {
        let secret: [u8; 32] = rand::random();
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = hash_of(&secret);
        self.0.lock().insert(hash, Arc::downgrade(&attempt.reports));
        OpenCallback { callbacks: self.clone(), hash, secret }
    }

    /// Returns the attempt with this secret, if it still runs.
    pub(crate) fn find(&self, secret: &str) -> Option<CalledAttempt> {
        let hash = hash_of(secret);
        let open = self.0.lock();
        let (known, sink) = open.get_key_value(&hash)?;
        bool::from(known.ct_eq(&hash)).then(|| sink.upgrade()).flatten().map(CalledAttempt)
    }
}

#[cfg(feature = "http")]
impl OpenCallback {
    /// Returns the secret.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }
}

#[cfg(feature = "http")]
impl Drop for OpenCallback {
    fn drop(&mut self) {
        self.callbacks.0.lock().remove(&self.hash);
    }
}

impl CalledAttempt {
    /// Keeps a state for the next attempt.
    pub(crate) fn checkpoint(&self, state: Output, commit_now: bool) -> Committed {
        self.0.checkpoint(state, commit_now)
    }

    /// Returns the state that earlier attempts have left.
    pub(crate) fn earlier_checkpoint(&self) -> Option<&Output> {
        self.0.earlier_checkpoint()
    }
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_until_its_attempt_ends_and_no_other_one_is() {
        let callbacks = Callbacks::default();
        let attempt = Attempt::detached("", "", |_| {});
        let (first, second) = (callbacks.open(&attempt), callbacks.open(&attempt));
        assert_ne!(first.secret(), second.secret());
        assert_eq!(first.secret().len(), 64);
        assert!(callbacks.find(first.secret()).is_some() && callbacks.find(second.secret()).is_some());
        let secret = first.secret().to_owned();
        for wrong in ["", "x", &secret[1..], &secret.to_uppercase(), &format!("{secret} ")] {
            assert!(wrong == secret || callbacks.find(wrong).is_none(), "{wrong}");
        }
        drop(first);
        assert!(callbacks.find(&secret).is_none());
        let secret = second.secret().to_owned();
        drop(attempt);
        assert!(callbacks.find(&secret).is_none(), "its attempt is over, whatever else is");
    }
}
