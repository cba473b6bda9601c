//! Functions of a file and their line counts.

use super::tokens::{LocatedToken, Token, closing};

/// A function with a body.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    /// The number of lines from its name to its last brace, both included.
    pub(crate) lines: usize,
}

/// Returns the functions of a file, including nested ones.
pub(crate) fn functions(tokens: &[LocatedToken]) -> Vec<Function> {
    let starts = tokens.iter().enumerate().filter(|(_, (token, _))| token.is_word("fn"));
    let found = starts.filter_map(|(at, (_, first))| {
        let name = tokens.get(at + 1)?.0.word()?.to_owned();
        let body = body(tokens, at)?;
        let (_, last) = tokens.get(closing(tokens, body))?;
        Some(Function { name, lines: last - first + 1 })
    });
    found.collect()
}

/// Returns the index of the brace that begins a function's body, if it has one.
fn body(tokens: &[LocatedToken], mut at: usize) -> Option<usize> {
    loop {
        match tokens.get(at)?.0 {
            Token::Sign('{') => return Some(at),
            Token::Sign(';') => return None,
            Token::Sign('(' | '[') => at = closing(tokens, at) + 1,
            Token::Word(_) | Token::Separator | Token::Sign(_) | Token::Literal => at += 1,
        }
    }
}

#[test]
fn functions_are_counted_from_their_name_to_their_last_brace() {
    let code = "
        trait A { fn a(&self) -> [u8; 2]; }
        #[must_use]
        fn b<T>(
            f: fn(u8) -> T,
        ) -> T
        where T: Copy
        {
            fn c() {}
            \"}\"
        }";
    let found = functions(&super::tokens::product(code));
    let found: Vec<_> = found.iter().map(|function| (function.name.as_str(), function.lines)).collect();
    assert_eq!(found, [("b", 8), ("c", 1)]);
}
