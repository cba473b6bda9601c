//! A lexer for Rust code, as far as the tests of the structure need one.

/// A token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Token {
    /// A name, a keyword or a number.
    Word(String),
    /// `::`.
    Separator,
    /// Any other character that is not white space.
    Sign(char),
    /// A text or character literal, whatever it says.
    Literal,
}

impl Token {
    pub(crate) fn is_word(&self, text: &str) -> bool {
        matches!(self, Token::Word(word) if word == text)
    }

    /// Returns the token's name, if it is a word.
    pub(crate) fn word(&self) -> Option<&str> {
        if let Token::Word(word) = self { Some(word) } else { None }
    }
}

/// A token and its line, counted from 1.
pub(crate) type LocatedToken = (Token, usize);

/// Returns the tokens of a file's product code: without comments, and without items for tests only.
pub(crate) fn product(text: &str) -> Vec<LocatedToken> {
    without_tests(&all(text))
}

fn all(text: &str) -> Vec<LocatedToken> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let (token, end) = match (c, next) {
            ('/', Some('/')) => (None, until(&chars, at, |rest| rest[0] == '\n')),
            ('/', Some('*')) => (None, end_of_comment(&chars, at)),
            ('"', _) => (Some(Token::Literal), end_of_text(&chars, at + 1)),
            ('\'', _) => quoted(&chars, at),
            (':', Some(':')) => (Some(Token::Separator), at + 2),
            (c, _) if c.is_alphanumeric() || c == '_' => word(&chars, at),
            (c, _) if c.is_whitespace() => (None, at + 1),
            (c, _) => (Some(Token::Sign(c)), at + 1),
        };
        tokens.extend(token.map(|token| (token, line)));
        line += chars[at..end].iter().filter(|c| **c == '\n').count();
        at = end;
    }
    tokens
}

/// Returns the first index from `at` on at which a condition holds for the rest; the end if there is none.
fn until(chars: &[char], at: usize, holds: impl Fn(&[char]) -> bool) -> usize {
    (at..chars.len()).find(|at| holds(&chars[*at..])).unwrap_or(chars.len())
}

/// Returns the index after a block comment, which may be nested.
fn end_of_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut at) = (1, at + 2);
    while depth > 0 && at < chars.len() {
        match chars[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at
}

/// Returns the index after a string whose opening quotation mark is before `at`.
fn end_of_text(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// Reads a character literal or a lifetime.
fn quoted(chars: &[char], at: usize) -> (Option<Token>, usize) {
    match chars[at + 1..] {
        ['\\', _, ..] => (Some(Token::Literal), until(chars, at + 3, |rest| rest[0] == '\'') + 1),
        [_, '\'', ..] => (Some(Token::Literal), at + 3),
        _ => (None, at + 1),
    }
}

/// Reads a word; or a raw string, which begins like one.
fn word(chars: &[char], at: usize) -> (Option<Token>, usize) {
    let end = until(chars, at, |rest| !rest[0].is_alphanumeric() && rest[0] != '_');
    let word: String = chars[at..end].iter().collect();
    let hashes = chars[end..].iter().take_while(|c| **c == '#').count();
    match chars.get(end + hashes) {
        Some('"') if matches!(word.as_str(), "r" | "br") => {
            let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
            let closed = until(chars, end + hashes + 1, |rest| rest.starts_with(&closing));
            (Some(Token::Literal), (closed + closing.len()).min(chars.len()))
        }
        Some('"') if hashes == 0 && word == "b" => (Some(Token::Literal), end_of_text(chars, end + 1)),
        _ => (Some(Token::Word(word)), end),
    }
}

/// Returns the tokens without items under `#[cfg(test)]`.
fn without_tests(tokens: &[LocatedToken]) -> Vec<LocatedToken> {
    let marker = [
        Token::Sign('#'),
        Token::Sign('['),
        Token::Word("cfg".to_owned()),
        Token::Sign('('),
        Token::Word("test".to_owned()),
        Token::Sign(')'),
        Token::Sign(']'),
    ];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        if rest.len() > marker.len() && marker.iter().zip(rest).all(|(wanted, (token, _))| wanted == token) {
            at += marker.len();
            at += end_of_item(&tokens[at..]);
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Returns the number of an item's tokens: up to its semicolon, or to the end of its block.
fn end_of_item(tokens: &[LocatedToken]) -> usize {
    let mut depth = 0;
    for (index, (token, _)) in tokens.iter().enumerate() {
        match token {
            Token::Sign('{' | '(' | '[') => depth += 1,
            Token::Sign('}') if depth == 1 => return index + 1,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            Token::Sign(';') if depth == 0 => return index + 1,
            Token::Word(_) | Token::Separator | Token::Sign(_) | Token::Literal => {}
        }
    }
    tokens.len()
}

/// Returns the index of the bracket that closes the one at `at`.
pub(crate) fn closing(tokens: &[LocatedToken], at: usize) -> usize {
    let mut depth = 0;
    for (index, (token, _)) in tokens.iter().enumerate().skip(at) {
        match token {
            Token::Sign('{' | '(' | '[') => depth += 1,
            Token::Sign('}' | ')' | ']') if depth == 1 => return index,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            Token::Word(_) | Token::Separator | Token::Sign(_) | Token::Literal => {}
        }
    }
    tokens.len()
}

#[test]
fn comments_texts_and_tests_are_no_code() {
    let code = r##"
        //! use crate::comment;
        fn a<'a>(b: &'a str) -> char { /* c /* d */ e */ let _ = ("f \" g", r#"h " i"#, b"j"); '\'' }
        #[cfg(test)]
        #[derive(Debug)]
        mod tests { fn k() { l() } }
        #[cfg(test)]
        use m::{n, o};
        static P: char = 'q';
    "##;
    let words: Vec<_> =
        product(code).into_iter().filter_map(|(token, _)| token.word().map(str::to_owned)).collect();
    assert_eq!(words, ["fn", "a", "a", "b", "a", "str", "char", "let", "_", "static", "P", "char"]);
    assert_eq!(product("a\n\"b\nc\"\nd").last(), Some(&(Token::Word("d".to_owned()), 4)));
}
