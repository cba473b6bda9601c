//! Readers of lists of tables with names, and of tables whose keys are names.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value as Json;

use super::{
    fault::SettingSource,
    rules::{IntIn, quote},
    schedule_rules::Name,
    section::{Reading, Section},
};
use crate::job::names::NameError;

/// Returns the tables of a list of tables that have a valid name of their own.
pub(super) fn tables<'d>(
    root: &Section<'d>,
    list: &str,
    keys: &[&str],
    max: usize,
    check_name: fn(&str) -> Result<(), NameError>,
    reading: &mut Reading<'_>,
) -> Vec<(String, Section<'d>)> {
    let mut found: Vec<(String, Section<'d>)> = Vec::new();
    let mut names = HashSet::new();
    let Some((elements, _)) = root.list(list, max, reading) else { return found };
    for (index, element) in elements.iter().enumerate() {
        let path = format!("{list}[{index}]");
        let Some(table) = element.get_ref().as_table() else {
            reading.fault_at(&element.span(), path, format!("this is not a table; write [[{list}]]"));
            continue;
        };
        let section = Section::open(path, Some(table), keys, reading);
        let Some((name, _)) = section.read("name", &Name(check_name), reading) else {
            if table.get("name").is_none() {
                reading.fault_at(
                    &element.span(),
                    section.key("name"),
                    "the name is missing; write name = \"…\"",
                );
            }
            continue;
        };
        if !names.insert(name.clone()) {
            let message = format!("the name {} is used twice; choose another one", quote(&name));
            reading.fault_at(&section.key_span("name"), section.key("name"), message);
            continue;
        }
        reading.entry(section.key("name"), name.as_str().into(), reading.place(&section.key_span("name")));
        found.push((name, section));
    }
    found
}

/// Reads a table of names and texts.
pub(super) fn texts(section: &Section<'_>, key: &str, reading: &mut Reading<'_>) -> BTreeMap<String, String> {
    let table = section.table(key, reading);
    let inner = Section::of_names(&section.key(key), table);
    let mut texts = BTreeMap::new();
    for (name, value) in table.into_iter().flatten() {
        match value.get_ref().as_str() {
            Some(text) => {
                texts.insert(name.get_ref().to_string(), text.to_owned());
            }
            None => reading.fault_at(&value.span(), inner.key(name.get_ref()), "the value must be text"),
        }
    }
    let place = table.map_or(SettingSource::Default, |_| reading.place(&section.key_span(key)));
    let shown = texts.iter().map(|(name, text)| (name.clone(), Json::from(text.as_str()))).collect();
    reading.entry(section.key(key), Json::Object(shown), place);
    texts
}

/// Reads a table of names and numbers.
pub(super) fn numbers(
    section: &Section<'_>,
    key: &str,
    rule: &IntIn<u32>,
    reading: &mut Reading<'_>,
) -> BTreeMap<String, u32> {
    let table = section.table(key, reading);
    let inner = Section::of_names(&section.key(key), table);
    let mut numbers = BTreeMap::new();
    for (name, _) in table.into_iter().flatten() {
        if let Some((number, _)) = inner.read(name.get_ref(), rule, reading) {
            numbers.insert(name.get_ref().to_string(), number);
        }
    }
    let place = table.map_or(SettingSource::Default, |_| reading.place(&section.key_span(key)));
    let shown = numbers.iter().map(|(name, number)| (name.clone(), Json::from(*number))).collect();
    reading.entry(section.key(key), Json::Object(shown), place);
    numbers
}
