//! The end of an attempt's output.

use std::{collections::VecDeque, sync::Arc};

/// Byte limit of the tail of an attempt's output, which is kept with its job.
const TAIL_MAX_BYTES: usize = 64 << 10;
/// Byte limit of a line of output; what exceeds it is cut off.
pub(crate) const OUTPUT_LINE_MAX_BYTES: usize = 8 << 10;

/// The last lines of an attempt's output.
#[derive(Debug, Default)]
pub(crate) struct OutputTail {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
    is_cut: bool,
}

impl OutputTail {
    /// Adds a line, and removes the oldest ones beyond the limit. Returns the line as it is kept: cut to its limit, and
    /// with replacements for bytes that are not UTF-8.
    pub(crate) fn push(&mut self, line: &[u8]) -> Arc<str> {
        let line = &line[..line.len().min(OUTPUT_LINE_MAX_BYTES)];
        let text: Arc<str> = String::from_utf8_lossy(line).into();
        self.bytes += text.len() + 1;
        self.lines.push_back(Arc::clone(&text));
        while self.bytes > TAIL_MAX_BYTES {
            self.is_cut = true;
            match self.lines.pop_front() {
                Some(oldest) => self.bytes -= oldest.len() + 1,
                None => break,
            }
        }
        text
    }

    /// Returns the tail as text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes + 32);
        if self.is_cut {
            text.push_str("[earlier output was cut]\n");
        }
        for line in &self.lines {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}
