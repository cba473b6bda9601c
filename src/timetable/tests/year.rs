//! A year of instants beside those of croner, a JavaScript library.
//!
//! `tests/timetable/year.txt` has the pairs of expression and zone with the number and the digest of croner's instants,
//! `differences.txt` each instant in which Jobmill's rule differs, with the reason. `cargo test --test peers croner` computes
//! both anew.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::*;

const YEAR: &str = include_str!("../../../tests/timetable/year.txt");
const DIFFERENCES: &str = include_str!("../../../tests/timetable/differences.txt");

/// Instants of one pair that only one side has.
#[derive(Debug, Default)]
struct Difference {
    ours: BTreeSet<i64>,
    theirs: BTreeSet<i64>,
}

/// Reads `differences.txt`: a line for each pair, and below it `+` for each instant of ours and `-` for each of theirs.
fn differences() -> BTreeMap<String, Difference> {
    let mut all: BTreeMap<String, Difference> = BTreeMap::new();
    let mut pair = String::new();
    for line in DIFFERENCES.lines() {
        if let Some(instant) = line.strip_prefix(['+', '-']) {
            let second = at(instant.trim()).as_micros() / 1_000_000;
            let difference = all.get_mut(&pair).unwrap();
            let side = if line.starts_with('+') { &mut difference.ours } else { &mut difference.theirs };
            assert!(side.insert(second), "{line} is there twice");
        } else {
            let fields: Vec<_> = line.split('\t').collect();
            assert!(fields.len() == 4 && !fields[3].is_empty(), "{line} has no reason");
            pair = fields[..3].join("\t");
            assert!(all.insert(pair.clone(), Difference::default()).is_none(), "{pair} is there twice");
        }
    }
    all
}

#[test]
fn a_year_of_three_hundred_pairs_agrees_with_croner_except_where_the_rule_differs() {
    let mut differences = differences();
    let mut pairs = BTreeSet::new();
    for line in YEAR.lines() {
        let [expression, zone, year, count, digest] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line} has not five fields");
        };
        let pair = [expression, zone, year].join("\t");
        let until = at(&format!("{}-01-01T00:00:00Z", year.parse::<u32>().unwrap() + 1));
        let after = Timestamp::from_micros(at(&format!("{year}-01-01T00:00:00Z")).as_micros() - 1);
        let timetable =
            Timetable::compile(&cron(expression, zone), &Excluded::default(), at(MADE), 0).unwrap();
        let instants =
            timetable.after(after).map(|instant| instant.nominal).take_while(|instant| *instant < until);
        let mut seconds: BTreeSet<i64> = instants.map(|instant| instant.as_micros() / 1_000_000).collect();
        let difference = differences.remove(&pair).unwrap_or_default();
        for ours in &difference.ours {
            assert!(seconds.remove(ours), "{pair}: {ours} is not an instant");
        }
        for theirs in &difference.theirs {
            assert!(seconds.insert(*theirs), "{pair}: {theirs} is an instant");
        }
        let lines: String = seconds.iter().map(|second| format!("{second}\n")).collect();
        let own_digest: String =
            Sha256::digest(lines)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((seconds.len().to_string().as_str(), own_digest.as_str()), (count, digest), "{pair}");
        assert!(pairs.insert(pair), "{line} is there twice");
    }
    assert_eq!(pairs.len(), 300);
    assert!(differences.is_empty(), "{:?} are not among the pairs", differences.keys());
}
