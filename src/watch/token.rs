//! Resume tokens: opaque to clients, valid on one store only, and never accepted for a history that the store has lost.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::FilterWatch;
use crate::job::{Canonical, Identity, JobFilter, JobId, Position};

/// Name and version of the canonical form of what is watched.
pub(super) const FORM: &str = "jobmill-watch-1";

const VERSION: u8 = 1;
const CHECK_LEN: usize = 8;

/// Position of a watcher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResumeToken {
    /// Digest of what is watched; zero for the token of a Submit's answer, which every watch accepts.
    pub watched: [u8; 8],
    /// Position up to which all changes were sent.
    pub position: Position,
    /// Progress of the snapshot, if it was not complete.
    pub snapshot: Option<SnapshotCursor>,
}

impl ResumeToken {
    /// Creates the token of a Submit's answer, with which any watch resumes after a position.
    #[must_use]
    pub fn after(position: Position) -> Self {
        ResumeToken { watched: [0; 8], position, snapshot: None }
    }
}

/// Progress of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotCursor {
    /// The last job that was examined.
    pub after: JobId,
    /// The last job that existed when the snapshot began.
    pub last: JobId,
}

/// Reason for which a token is not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidToken {
    /// The text is not a token.
    #[error("is not a resume token: send back the token of a message, unchanged")]
    Garbage,
    /// The token is from another store.
    #[error("belongs to another store")]
    OtherStore,
    /// The token is from another watch.
    #[error("belongs to a watch of other ids or another filter")]
    OtherWatch,
    /// The token is from a history that this store does not have: a backup has been restored since.
    #[error("is from a history that this store does not have any more")]
    OtherHistory,
}

/// Issuer and checker of tokens.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    identity: Identity,
}

impl TokenIssuer {
    /// Creates an issuer for the store with this identity.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        TokenIssuer { identity }
    }

    /// Returns the digest of ids or a filter for tokens.
    #[must_use]
    pub(crate) fn watched(what: Canonical) -> [u8; 8] {
        let mut watched: [u8; 8] = what.digest();
        // Zero is reserved for the answers of Submit.
        watched[0] |= 1;
        watched
    }

    /// Returns a digest of this store and a filter, for the page tokens of lists.
    #[must_use]
    pub fn page_tag(&self, filter: &JobFilter) -> [u8; 8] {
        digest(&[&self.identity.store[..], &FilterWatch::watched(filter)].concat())
    }

    /// Encodes a token as text.
    #[must_use]
    pub fn issue(&self, token: &ResumeToken) -> String {
        let mut bytes = Vec::with_capacity(72);
        bytes.push(VERSION);
        bytes.extend(self.identity.store);
        bytes.extend(self.identity.incarnations.last().map_or([0; 8], |incarnation| incarnation.id));
        bytes.extend(token.watched);
        bytes.extend(token.position.0.to_le_bytes());
        if let Some(cursor) = token.snapshot {
            bytes.extend(cursor.after.raw().to_le_bytes());
            bytes.extend(cursor.last.raw().to_le_bytes());
        }
        bytes.extend(digest::<CHECK_LEN>(&bytes));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Decodes a token, and checks that it fits a watch.
    ///
    /// # Errors
    /// The token is not from this store, not of this watch, or of a history that the store does not have.
    pub fn read(&self, text: &str, watched: [u8; 8]) -> Result<ResumeToken, InvalidToken> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidToken::Garbage)?;
        let (body, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(InvalidToken::Garbage)?;
        if digest::<CHECK_LEN>(body) != *check {
            return Err(InvalidToken::Garbage);
        }
        let mut rest = body;
        let [version] = take(&mut rest)?;
        let store: [u8; 16] = take(&mut rest)?;
        let incarnation: [u8; 8] = take(&mut rest)?;
        let token_watched: [u8; 8] = take(&mut rest)?;
        let position = Position(i64::from_le_bytes(take(&mut rest)?));
        let snapshot = match rest.is_empty() {
            true => None,
            false => Some(SnapshotCursor {
                after: JobId::from_raw(i64::from_le_bytes(take(&mut rest)?)),
                last: JobId::from_raw(i64::from_le_bytes(take(&mut rest)?)),
            }),
        };
        if version != VERSION || !rest.is_empty() || position.0 < 0 {
            return Err(InvalidToken::Garbage);
        }
        if store != self.identity.store {
            return Err(InvalidToken::OtherStore);
        }
        if token_watched != [0; 8] && token_watched != watched {
            return Err(InvalidToken::OtherWatch);
        }
        let starts = &self.identity.incarnations;
        let issued_by =
            starts.iter().position(|start| start.id == incarnation).ok_or(InvalidToken::OtherHistory)?;
        // What an incarnation sent after the backup was made is not in the store, and can't be resumed from.
        if starts.get(issued_by + 1).is_some_and(|next| position > next.first) {
            return Err(InvalidToken::OtherHistory);
        }
        Ok(ResumeToken { watched: token_watched, position, snapshot })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], InvalidToken> {
    let (taken, left) = rest.split_first_chunk::<N>().ok_or(InvalidToken::Garbage)?;
    *rest = left;
    Ok(*taken)
}

fn digest<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let hash = Sha256::digest(bytes);
    std::array::from_fn(|index| hash[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Incarnation;

    fn identity(incarnations: &[(u8, i64)]) -> Identity {
        let incarnations =
            incarnations.iter().map(|(id, first)| Incarnation { id: [*id; 8], first: Position(*first) });
        Identity { store: [7; 16], place: [7; 16], incarnations: incarnations.collect() }
    }

    const TOKEN: ResumeToken = ResumeToken { watched: [3; 8], position: Position(40), snapshot: None };

    #[test]
    fn a_token_reads_back_with_and_without_a_snapshot() {
        let issuer = TokenIssuer::new(identity(&[(1, 0)]));
        let cursor = SnapshotCursor { after: JobId::from_raw(5), last: JobId::from_raw(9) };
        for token in [TOKEN, ResumeToken { snapshot: Some(cursor), ..TOKEN }] {
            assert_eq!(issuer.read(&issuer.issue(&token), [3; 8]), Ok(token));
        }
    }

    #[test]
    fn every_broken_character_is_noticed() {
        let issuer = TokenIssuer::new(identity(&[(1, 0)]));
        let good = issuer.issue(&TOKEN);
        for index in 0..good.len() {
            let other = if good.as_bytes()[index] == b'A' { "B" } else { "A" };
            let mut bad = good.clone();
            bad.replace_range(index..=index, other);
            assert_eq!(issuer.read(&bad, [3; 8]), Err(InvalidToken::Garbage));
            assert_eq!(issuer.read(&good[..index], [3; 8]), Err(InvalidToken::Garbage));
        }
    }

    #[test]
    fn a_token_of_another_watch_or_store_is_refused() {
        let issuer = TokenIssuer::new(identity(&[(1, 0)]));
        let token = issuer.issue(&TOKEN);
        assert_eq!(issuer.read(&token, [4; 8]), Err(InvalidToken::OtherWatch));
        let other = TokenIssuer::new(Identity { store: [8; 16], ..identity(&[(1, 0)]) });
        assert_eq!(other.read(&token, [3; 8]), Err(InvalidToken::OtherStore));
        let from_submit = issuer.issue(&ResumeToken { watched: [0; 8], ..TOKEN });
        assert!(issuer.read(&from_submit, [4; 8]).is_ok());
    }

    #[test]
    fn a_token_survives_restarts_but_not_a_restored_backup() {
        let token = TokenIssuer::new(identity(&[(1, 0)])).issue(&TOKEN);
        let restarted = TokenIssuer::new(identity(&[(1, 0), (2, 40)]));
        assert_eq!(restarted.read(&token, [3; 8]), Ok(TOKEN));
        let restored_after = TokenIssuer::new(identity(&[(1, 0), (2, 39)]));
        assert_eq!(restored_after.read(&token, [3; 8]), Err(InvalidToken::OtherHistory));
        let restored_before = TokenIssuer::new(identity(&[(5, 0), (6, 30)]));
        assert_eq!(restored_before.read(&token, [3; 8]), Err(InvalidToken::OtherHistory));
    }
}
