//! Authorisation: bearer tokens, their roles, and the queues that the roles apply to.
//!
//! A token is 256 random bits, and the server knows only its SHA-256. A slow hash would add nothing, because a token
//! can't be guessed.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::{
    clock::Clock,
    settings::{QueuePattern, Role, Token, TokenHash},
};

/// Set of the known tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Arc<Token>>);

impl Tokens {
    /// Creates a set of tokens.
    #[must_use]
    pub fn new(tokens: Vec<Token>) -> Self {
        Tokens(tokens.into_iter().map(Arc::new).collect())
    }

    /// Returns the token with this hash. Compares all tokens, so that the time taken tells nothing about a match.
    fn find(&self, hash: TokenHash) -> Option<&Arc<Token>> {
        self.0.iter().fold(None, |found, token| if token.hash == hash { Some(token) } else { found })
    }
}

/// Reason for which a caller is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// The call has no token.
    #[error("the call has no token: send the header `authorization: Bearer TOKEN`")]
    Missing,
    /// The call has more than one token.
    #[error("the call has more than one `authorization` header: send one")]
    Several,
    /// No known token matches.
    #[error("the token is not known: it is wrong, or was removed from the server's token file")]
    Unknown,
    /// The token has expired.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// The token's entry in the token file has changed since the call began.
    #[error("the token's rights have changed since the call began: call again")]
    Changed,
}

/// An admitted caller: its token and its client certificate.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Absent where no token is required; every call is allowed then.
    token: Option<Arc<Token>>,
    certificate: Option<Arc<str>>,
}

impl Subject {
    /// Creates the subject of a call that requires no token.
    #[must_use]
    pub fn anyone(certificate: Option<Arc<str>>) -> Self {
        Subject { token: None, certificate }
    }

    /// Returns the token's name, or else the client certificate's.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.token.as_ref().map(|token| &*token.name).or(self.certificate.as_deref())
    }

    /// Returns the name in the client's certificate, if the client presented one.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Returns the granted roles with their queue patterns. Empty where every call is allowed.
    pub fn grants(&self) -> impl Iterator<Item = (Role, &[QueuePattern])> {
        let tokens = self.token.iter();
        tokens.flat_map(|token| token.roles.iter().map(|role| (*role, &token.queues[..])))
    }

    /// Returns whether the caller has the role on a queue.
    #[must_use]
    pub fn may(&self, role: Role, queue: &str) -> bool {
        self.may_anywhere(role)
            && self.token.as_ref().is_none_or(|token| token.queues.iter().any(|pattern| pattern.fits(queue)))
    }

    /// Returns whether the caller has the role on every queue, including queues that are yet to be created.
    #[must_use]
    pub fn may_everywhere(&self, role: Role) -> bool {
        self.may_anywhere(role)
            && self.token.as_ref().is_none_or(|token| token.queues.iter().any(QueuePattern::fits_all))
    }

    /// Returns whether the caller has the role, on any queue.
    #[must_use]
    pub fn may_anywhere(&self, role: Role) -> bool {
        self.token.as_ref().is_none_or(|token| token.roles.iter().any(|has| has.includes(role)))
    }
}

/// Authentication of callers by token.
#[derive(Debug)]
pub struct Access {
    /// Absent where the server requires no tokens.
    tokens: Option<RwLock<Tokens>>,
    clock: Clock,
}

impl Access {
    /// Admits callers that have one of these tokens. Without a set of tokens, admits every caller.
    #[must_use]
    pub fn new(tokens: Option<Tokens>, clock: Clock) -> Self {
        Access { tokens: tokens.map(RwLock::new), clock }
    }

    /// Replaces the known tokens. Does nothing where the server requires none.
    pub fn replace(&self, tokens: Tokens) {
        if let Some(current) = &self.tokens {
            *current.write() = tokens;
        }
    }

    /// Returns whether callers need a token.
    #[must_use]
    pub fn asks_for_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Authenticates a caller by its token; the certificate is the one that the client presented.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn admit(&self, token: Option<&str>, certificate: Option<Arc<str>>) -> Result<Subject, Denied> {
        let Some(tokens) = &self.tokens else {
            return Ok(Subject::anyone(certificate));
        };
        let token = token.ok_or(Denied::Missing)?;
        let token = tokens.read().find(TokenHash::of(token)).cloned().ok_or(Denied::Unknown)?;
        self.check_time(&token)?;
        Ok(Subject { token: Some(token), certificate })
    }

    /// Checks that an admitted caller would still be admitted with the same rights.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn recheck(&self, subject: &Subject) -> Result<(), Denied> {
        let (Some(tokens), Some(token)) = (&self.tokens, &subject.token) else {
            return Ok(());
        };
        let current = tokens.read().find(token.hash).cloned().ok_or(Denied::Unknown)?;
        if current != *token {
            return Err(Denied::Changed);
        }
        self.check_time(token)
    }

    fn check_time(&self, token: &Token) -> Result<(), Denied> {
        match token.expires {
            Some(expires) if expires <= self.clock.now() => Err(Denied::Expired),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    fn token(name: &str, secret: &str, roles: &[Role], queues: &[&str]) -> Token {
        Token {
            name: name.into(),
            hash: TokenHash::of(secret),
            roles: roles.to_vec(),
            queues: queues.iter().map(|pattern| pattern.parse().unwrap()).collect(),
            expires: None,
        }
    }

    #[test]
    fn roles_hold_on_the_queues_that_a_pattern_fits() {
        let tokens = Tokens::new(vec![
            token("a", "s", &[Role::Submit, Role::Read], &["mail*", "img"]),
            token("b", "t", &[Role::Admin], &["*"]),
        ]);
        let access = Access::new(Some(tokens), Clock::System);
        let a = access.admit(Some("s"), None).unwrap();
        assert!(a.may(Role::Submit, "mail.bulk") && a.may(Role::Read, "img"));
        assert!(!a.may(Role::Submit, "imgs") && !a.may(Role::Admin, "mail") && !a.may_anywhere(Role::Work));
        assert!(!a.may_everywhere(Role::Read));
        let b = access.admit(Some("t"), None).unwrap();
        for role in Role::ALL {
            assert!(b.may(role, "x") && b.may_everywhere(role), "{role}");
        }
    }

    #[test]
    fn who_is_let_in_is_looked_at_again() {
        let clock = ManualClock::new(Timestamp::from_micros(1_000_000));
        let mut entry = token("a", "s", &[Role::Read], &["*"]);
        entry.expires = Some(Timestamp::from_micros(3_000_000));
        let access = Access::new(Some(Tokens::new(vec![entry.clone()])), Clock::Manual(clock.clone()));
        assert_eq!(access.admit(None, None).unwrap_err(), Denied::Missing);
        assert_eq!(access.admit(Some("S"), None).unwrap_err(), Denied::Unknown);
        let subject = access.admit(Some("s"), None).unwrap();
        assert_eq!(access.recheck(&subject), Ok(()));
        access.replace(Tokens::new(vec![Token { roles: vec![Role::Submit], ..entry.clone() }]));
        assert_eq!(access.recheck(&subject), Err(Denied::Changed));
        access.replace(Tokens::default());
        assert_eq!(access.recheck(&subject), Err(Denied::Unknown));
        access.replace(Tokens::new(vec![entry]));
        clock.advance(Duration::from_secs(2));
        assert_eq!(access.recheck(&subject), Err(Denied::Expired));
        assert_eq!(access.admit(Some("s"), None).unwrap_err(), Denied::Expired);
    }
}
