//! TOML documents.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use toml::de::DeTable;

use super::fault::{Fault, SourceText};
use crate::settings::limits;

/// Reads a file up to one byte over the limit, because the path may be a device that never ends.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limits::FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Parses a file. Returns `None` where its syntax is wrong, because faults derived from that would only mislead.
pub(super) fn parse<'s>(source: &'s SourceText, faults: &mut Vec<Fault>) -> Option<DeTable<'s>> {
    let (document, errors) = DeTable::parse_recoverable(source.text());
    if errors.is_empty() {
        return Some(document.into_inner());
    }
    faults.extend(errors.into_iter().map(|error| {
        let span = error.span().unwrap_or(0..0);
        // Toml's `Display` quotes the whole line, which may hold a secret. The place is enough.
        let key = if error.message() == "duplicate key" { source.text().get(span.clone()) } else { None };
        Fault {
            place: source.place(span.start),
            key: key.unwrap_or_default().to_owned(),
            message: format!("not valid TOML: {}", error.message()),
        }
    }));
    None
}
