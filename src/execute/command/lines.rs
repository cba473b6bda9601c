//! Splitting a stream of bytes into lines, in bounded memory.

/// Handling of a line that is over the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Overlong {
    /// The beginning of the line is reported as soon as the limit is reached; the rest is dropped.
    Cut,
    /// The whole line is dropped.
    Drop,
}

/// A splitter of a stream at its newlines. It never holds more than one line's limit.
#[derive(Debug)]
pub(super) struct Lines {
    line: Vec<u8>,
    max_bytes: usize,
    overlong: Overlong,
    /// Whether the rest of an overlong line is being dropped.
    skipping: bool,
}

impl Lines {
    pub(super) fn new(max_bytes: usize, overlong: Overlong) -> Self {
        Lines { line: Vec::new(), max_bytes, overlong, skipping: false }
    }

    /// Takes the next bytes of the stream and reports each line that ends in them, without its line ending.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.extend(&bytes[..end], &mut tell);
            if !self.skipping {
                tell(self.line.strip_suffix(b"\r").unwrap_or(&self.line));
            }
            self.line.clear();
            self.skipping = false;
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, &mut tell);
    }

    /// Reports the last line, if it has no newline.
    pub(super) fn finish(&mut self, tell: impl FnOnce(&[u8])) {
        if !self.skipping && !self.line.is_empty() {
            tell(&self.line);
        }
        self.line.clear();
        self.skipping = false;
    }

    fn extend(&mut self, part: &[u8], tell: &mut impl FnMut(&[u8])) {
        if self.skipping {
            return;
        }
        let room = self.max_bytes - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        if part.len() > room {
            if self.overlong == Overlong::Cut {
                tell(&self.line);
            }
            self.line.clear();
            self.skipping = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(parts: &[&[u8]], max_bytes: usize, overlong: Overlong) -> Vec<Vec<u8>> {
        let mut lines = Lines::new(max_bytes, overlong);
        let mut told = Vec::new();
        for part in parts {
            lines.feed(part, |line| told.push(line.to_vec()));
            assert!(lines.line.len() <= max_bytes);
        }
        lines.finish(|line| told.push(line.to_vec()));
        told
    }

    #[test]
    fn an_overlong_line_is_cut_or_dropped_and_the_next_one_is_whole() {
        let parts: [&[u8]; 3] = [b"12345", b"6789\nnext\r\n", b"12345\n\nrest"];
        assert_eq!(split(&parts, 5, Overlong::Cut), [&b"12345"[..], b"next", b"12345", b"", b"rest"]);
        assert_eq!(split(&parts, 5, Overlong::Drop), [&b"next"[..], b"12345", b"", b"rest"]);
    }

    #[test]
    fn a_cut_line_is_told_before_its_end_came() {
        let mut lines = Lines::new(3, Overlong::Cut);
        let mut told = Vec::new();
        lines.feed(b"abcd", |line| told.push(line.to_vec()));
        assert_eq!(told, [b"abc"]);
    }

    proptest! {
        #[test]
        fn where_the_stream_is_broken_into_reads_changes_nothing(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x')], 0..64),
            size in 1usize..8,
        ) {
            let reads: Vec<&[u8]> = bytes.chunks(size).collect();
            for overlong in [Overlong::Cut, Overlong::Drop] {
                prop_assert_eq!(split(&reads, 4, overlong), split(&[&bytes], 4, overlong));
            }
        }
    }
}
