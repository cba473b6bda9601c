//! Tokens of callers, as listed in the token file.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::role::{QueuePattern, Role};
use crate::clock::Timestamp;

/// Prefix of all tokens, by which scanners for secrets recognise them.
pub const TOKEN_PREFIX: &str = "jobmill_";

/// Maximum number of characters in a token's name.
const NAME_CHARS_MAX: usize = 64;

/// The error for text that is not a valid name of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a token's name is 1 to {NAME_CHARS_MAX} characters, without control characters")]
pub struct TokenNameError;

/// Checks the name of a token.
///
/// # Errors
/// The name is empty, too long, or has a control character.
pub fn check_token_name(name: &str) -> Result<(), TokenNameError> {
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(TokenNameError);
    }
    Ok(())
}

/// A token as the server knows it.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// Name of the token's holder.
    pub name: Arc<str>,
    /// SHA-256 of the token.
    pub hash: TokenHash,
    /// Roles of the token.
    pub roles: Vec<Role>,
    /// Patterns of the queues that the roles apply to.
    pub queues: Vec<QueuePattern>,
    /// Time at which the token expires.
    pub expires: Option<Timestamp>,
}

/// The SHA-256 of a token.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Hashes a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        TokenHash(Sha256::digest(token.as_bytes()).into())
    }

    /// Parses 64 hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(TokenHash(bytes))
    }
}

impl PartialEq for TokenHash {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Token {
    /// Leaves out the hash, which has no use in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Token { name, hash: _, roles, queues, expires } = self;
        f.debug_struct("Token")
            .field("name", name)
            .field("roles", roles)
            .field("queues", queues)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_read_back_as_they_are_shown() {
        let hash = TokenHash::of("abc");
        let text = hash.to_string();
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(TokenHash::from_hex(&text).unwrap() == hash);
        for text in
            ["", "ba78", &"é".repeat(32), &"g".repeat(64), &format!("{text}0"), &format!("+{}", &text[1..])]
        {
            assert!(TokenHash::from_hex(text).is_none(), "{text}");
        }
    }
}
