//! Canonical forms of requests for digests, the same in every version.

use std::{collections::BTreeMap, time::Duration};

use sha2::{Digest, Sha256};

/// A canonical form as lines of a name and values, each value with its length. Only the hash of the lines is held.
#[derive(Clone)]
pub(crate) struct Canonical(Sha256);

impl Canonical {
    /// Begins a form with its name and version, and the type of what it describes.
    pub(crate) fn of(form: &str, what: &str) -> Self {
        let mut canonical = Canonical(Sha256::new());
        canonical.put(form, &[what.as_bytes()]);
        canonical
    }

    /// Adds a line.
    pub(crate) fn put(&mut self, name: &str, values: &[&[u8]]) {
        self.0.update(name.as_bytes());
        for value in values {
            self.0.update(format!(" {}:", value.len()).as_bytes());
            self.0.update(value);
        }
        self.0.update(b"\n");
    }

    /// Adds a line with a text, unless the text is empty.
    pub(crate) fn put_text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.put(name, &[text.as_bytes()]);
        }
    }

    /// Adds a line with a number in decimal, if there is one.
    pub(crate) fn put_number(&mut self, name: &str, number: Option<impl std::fmt::Display>) {
        if let Some(number) = number {
            self.put(name, &[number.to_string().as_bytes()]);
        }
    }

    /// Adds a line with whole microseconds, the precision of the store, if there is a duration.
    pub(crate) fn put_duration(&mut self, name: &str, duration: Option<Duration>) {
        self.put_number(name, duration.map(|duration| duration.as_micros()));
    }

    /// Adds a line with the 64 bits of a float in hexadecimal, if there is one.
    pub(crate) fn put_float(&mut self, name: &str, float: Option<f64>) {
        if let Some(float) = float {
            // Both zeros mean the same.
            let float = if float == 0.0 { 0.0 } else { float };
            self.put(name, &[format!("{:016x}", float.to_bits()).as_bytes()]);
        }
    }

    /// Adds a line for each entry, in the order of the keys' bytes.
    pub(crate) fn put_entries(&mut self, name: &str, entries: &BTreeMap<String, String>) {
        for (key, value) in entries {
            self.put(name, &[key.as_bytes(), value.as_bytes()]);
        }
    }

    /// Returns the first bytes of the form's SHA-256, at most 32.
    pub(crate) fn digest<const N: usize>(self) -> [u8; N] {
        let hash = self.0.finalize();
        std::array::from_fn(|index| hash[index])
    }
}
