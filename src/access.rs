//! Who may do what: bearer tokens, their roles, and the queues on which they hold.
//!
//! A token is 256 random bits, of which the server knows the SHA-256 only. Guessing is hopeless, so that a slow hash
//! would protect nothing.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::{
    clock::Clock,
    settings::{QueuePattern, Role, Token, TokenHash},
};

/// The tokens that are known.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Vec<Arc<Token>>);

impl Tokens {
    /// All of these.
    #[must_use]
    pub fn new(tokens: Vec<Token>) -> Self {
        Tokens(tokens.into_iter().map(Arc::new).collect())
    }

    /// The one with this hash. Each is looked at, so that the time tells nothing.
    fn find(&self, hash: TokenHash) -> Option<&Arc<Token>> {
        self.0.iter().fold(None, |found, token| if token.hash == hash { Some(token) } else { found })
    }
}

/// Why someone is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denied {
    /// No token came.
    #[error("the call has no token: send the header `authorization: Bearer TOKEN`")]
    Missing,
    /// More than one token came.
    #[error("the call has more than one `authorization` header: send one")]
    Several,
    /// No token is known that is like this one.
    #[error("the token is not known: it is wrong, or was taken from the server's file of tokens")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired: ask for a new one")]
    Expired,
    /// Its entry has changed since the call began.
    #[error("the token's rights have changed since the call began: call again")]
    Changed,
}

/// Somebody who was let in.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Absent where the server asks for none: then all is allowed.
    token: Option<Arc<Token>>,
    certificate: Option<Arc<str>>,
}

impl Subject {
    /// Whoever makes a call for which nobody is asked who they are.
    #[must_use]
    pub fn anyone(certificate: Option<Arc<str>>) -> Self {
        Subject { token: None, certificate }
    }

    /// The token's name, or else the client certificate's.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.token.as_ref().map(|token| &*token.name).or(self.certificate.as_deref())
    }

    /// What the client's certificate calls it, if it showed one.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// What it may do, and on which queues. Nothing where all is allowed.
    pub fn grants(&self) -> impl Iterator<Item = (Role, &[QueuePattern])> {
        let tokens = self.token.iter();
        tokens.flat_map(|token| token.roles.iter().map(|role| (*role, &token.queues[..])))
    }

    /// Whether it has the role on a queue.
    #[must_use]
    pub fn may(&self, role: Role, queue: &str) -> bool {
        self.may_anywhere(role)
            && self.token.as_ref().is_none_or(|token| token.queues.iter().any(|pattern| pattern.fits(queue)))
    }

    /// Whether it has the role on every queue that there is or will be.
    #[must_use]
    pub fn may_everywhere(&self, role: Role) -> bool {
        self.may_anywhere(role)
            && self.token.as_ref().is_none_or(|token| token.queues.iter().any(QueuePattern::fits_all))
    }

    /// Whether it has the role at all.
    #[must_use]
    pub fn may_anywhere(&self, role: Role) -> bool {
        self.token.as_ref().is_none_or(|token| token.roles.iter().any(|has| has.includes(role)))
    }
}

/// Lets callers in.
#[derive(Debug)]
pub struct Access {
    /// Absent where the server asks for none.
    tokens: Option<RwLock<Tokens>>,
    clock: Clock,
}

impl Access {
    /// Lets in who has one of these; without any list, everybody.
    #[must_use]
    pub fn new(tokens: Option<Tokens>, clock: Clock) -> Self {
        Access { tokens: tokens.map(RwLock::new), clock }
    }

    /// From now on, these are the tokens.
    pub fn replace(&self, tokens: Tokens) {
        if let Some(current) = &self.tokens {
            *current.write() = tokens;
        }
    }

    /// Whether callers need a token.
    #[must_use]
    pub fn asks_for_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// Lets a caller in who has this token, and showed this certificate.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, token: Option<&str>, certificate: Option<Arc<str>>) -> Result<Subject, Denied> {
        let Some(tokens) = &self.tokens else {
            return Ok(Subject::anyone(certificate));
        };
        let token = token.ok_or(Denied::Missing)?;
        let token = tokens.read().find(TokenHash::of(token)).cloned().ok_or(Denied::Unknown)?;
        self.check_time(&token)?;
        Ok(Subject { token: Some(token), certificate })
    }

    /// Whether somebody who was let in would still be let in with the same rights.
    ///
    /// # Errors
    /// Why not.
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
