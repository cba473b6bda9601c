//! Readers of the file's tables. They record every fault with its place, and every setting as resolved.
//!
//! The file is read as toml's spanned tree instead of being deserialized: serde stops at the first fault, and operators
//! are to see all faults at once.

use std::ops::Range;

use serde_json::Value as Json;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    entry::ResolvedSetting,
    fault::{Fault, SettingSource, SourceText},
    rules::{Rule, nearest},
};

/// Faults and settings read so far.
pub(super) struct Reading<'s> {
    source: Option<&'s SourceText>,
    pub(super) faults: Vec<Fault>,
    pub(super) entries: Vec<ResolvedSetting>,
}

impl<'s> Reading<'s> {
    pub(super) fn new(source: Option<&'s SourceText>, faults: Vec<Fault>) -> Self {
        Reading { source, faults, entries: Vec::new() }
    }

    pub(super) fn place(&self, span: &Range<usize>) -> SettingSource {
        self.source.map_or(SettingSource::Default, |source| source.place(span.start))
    }

    pub(super) fn fault(&mut self, place: SettingSource, key: impl Into<String>, message: impl Into<String>) {
        self.faults.push(Fault { place, key: key.into(), message: message.into() });
    }

    pub(super) fn fault_at(
        &mut self,
        span: &Range<usize>,
        key: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.fault(self.place(span), key, message);
    }

    pub(super) fn entry(&mut self, key: impl Into<String>, value: Json, place: SettingSource) {
        self.entries.push(ResolvedSetting { key: key.into(), value, place });
    }
}

/// A table of the file, which may be absent.
pub(super) struct Section<'d> {
    path: String,
    table: Option<&'d DeTable<'d>>,
    /// Whether a table stands under an unknown key. That is most likely a name with a dot that lacks its quotes.
    has_stray_table: bool,
}

impl<'d> Section<'d> {
    /// Opens a table with known keys. Other keys are faults.
    pub(super) fn open(
        path: String,
        table: Option<&'d DeTable<'d>>,
        keys: &[&str],
        reading: &mut Reading<'_>,
    ) -> Self {
        let mut section = Section { path, table, has_stray_table: false };
        for (key, value) in table.into_iter().flatten() {
            if keys.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let stray_table = value.get_ref().is_table();
            section.has_stray_table |= stray_table;
            let message = match (nearest(key.get_ref(), keys), section.named()) {
                (Some(meant), _) => format!("unknown key; did you mean `{meant}`?"),
                (None, Some((parent, name))) if stray_table => {
                    let whole = format!("{name}.{}", key.get_ref());
                    format!(
                        "unknown key; a name with a dot needs quotes: write [{parent}.\"{}\"]",
                        whole.escape_debug()
                    )
                }
                (None, _) => format!("unknown key; known here: {}", keys.join(", ")),
            };
            reading.fault_at(&key.span(), section.key(key.get_ref()), message);
        }
        section
    }

    /// Opens a table whose keys are names chosen by the operator.
    pub(super) fn of_names(path: &str, table: Option<&'d DeTable<'d>>) -> Self {
        Section { path: path.to_owned(), table, has_stray_table: false }
    }

    /// Returns the section's parent and name, if it is a queue or a kind.
    fn named(&self) -> Option<(&str, &str)> {
        self.path
            .split_once('.')
            .filter(|(parent, name)| matches!(*parent, "queues" | "kinds") && !name.contains(['.', '"']))
    }

    pub(super) fn has_stray_table(&self) -> bool {
        self.has_stray_table
    }

    /// Returns the full path of a key of this table.
    pub(super) fn key(&self, key: &str) -> String {
        let bare =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let key = if bare { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.table.and_then(|table| table.get(key))
    }

    /// Returns the span of a key; the span is empty where the file does not have the key.
    pub(super) fn key_span(&self, key: &str) -> Range<usize> {
        self.table.and_then(|table| table.get_key_value(key)).map_or(0..0, |(key, _)| key.span())
    }

    /// Reads a setting that may be absent, and its place.
    pub(super) fn read<R: Rule>(
        &self,
        key: &str,
        rule: &R,
        reading: &mut Reading<'_>,
    ) -> Option<(R::Value, SettingSource)> {
        let value = self.get(key)?;
        match rule.value(value.get_ref()) {
            Ok(read) => Some((read, reading.place(&value.span()))),
            Err(message) => {
                reading.fault_at(&value.span(), self.key(key), message);
                None
            }
        }
    }

    /// Reads a setting that has a default, and records it as resolved.
    pub(super) fn setting<R: Rule>(
        &self,
        key: &str,
        rule: &R,
        default: R::Value,
        reading: &mut Reading<'_>,
    ) -> R::Value {
        let (value, place) = self.read(key, rule, reading).unwrap_or((default, SettingSource::Default));
        reading.entry(self.key(key), rule.show(&value), place);
        value
    }

    /// Reads a setting that has no default, and records it as resolved.
    pub(super) fn optional<R: Rule>(
        &self,
        key: &str,
        rule: &R,
        reading: &mut Reading<'_>,
    ) -> Option<R::Value> {
        let found = self.read(key, rule, reading);
        let (shown, place) =
            found.as_ref().map_or((serde_json::Value::Null, SettingSource::Default), |(value, place)| {
                (rule.show(value), place.clone())
            });
        reading.entry(self.key(key), shown, place);
        found.map(|(value, _)| value)
    }

    /// Returns a table inside of this one; a value of another type is a fault.
    pub(super) fn table(&self, key: &str, reading: &mut Reading<'_>) -> Option<&'d DeTable<'d>> {
        let value = self.get(key)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            reading.fault_at(
                &value.span(),
                self.key(key),
                format!("this is not a table; write [{}]", self.key(key)),
            );
        }
        table
    }

    /// Returns a list inside of this table; a value of another type is a fault, and so are too many elements.
    pub(super) fn list(
        &self,
        key: &str,
        max: usize,
        reading: &mut Reading<'_>,
    ) -> Option<(&'d DeArray<'d>, SettingSource)> {
        let value = self.get(key)?;
        let Some(list) = value.get_ref().as_array() else {
            let message = "this is not a list; write one in brackets, such as [\"a\", \"b\"] or [1, 2]";
            reading.fault_at(&value.span(), self.key(key), message);
            return None;
        };
        if list.len() > max {
            let message = format!("the list has {} elements, the limit is {max}; write fewer", list.len());
            reading.fault_at(&value.span(), self.key(key), message);
            return None;
        }
        Some((list, reading.place(&value.span())))
    }

    /// Reads each element of a list by a rule.
    pub(super) fn elements<R: Rule>(
        &self,
        key: &str,
        max: usize,
        rule: &R,
        reading: &mut Reading<'_>,
    ) -> (Vec<R::Value>, SettingSource) {
        let Some((list, place)) = self.list(key, max, reading) else {
            return (Vec::new(), SettingSource::Default);
        };
        let mut values = Vec::new();
        for (index, element) in list.iter().enumerate() {
            match rule.value(element.get_ref()) {
                Ok(value) => values.push(value),
                Err(message) => {
                    reading.fault_at(&element.span(), format!("{}[{index}]", self.key(key)), message);
                }
            }
        }
        (values, place)
    }

    /// Reads a list that is empty by default, and records it as resolved.
    pub(super) fn list_setting<R: Rule>(
        &self,
        key: &str,
        max: usize,
        rule: &R,
        reading: &mut Reading<'_>,
    ) -> Vec<R::Value> {
        let (values, place) = self.elements(key, max, rule, reading);
        reading.entry(self.key(key), values.iter().map(|value| rule.show(value)).collect(), place);
        values
    }
}
