//! croner, a JavaScript library for cron expressions, beside the instants of schedules.
//!
//! `JOBMILL_REWRITE=1 cargo test --test peers croner` writes what it finds to `tests/timetable/`, where the unit tests of
//! `src/timetable/` compare it without croner.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, process::Command};

use jobmill::{
    clock::Timestamp,
    timetable::{Excluded, Timetable, TimetableSpec},
};
use sha2::{Digest, Sha256};

/// Why croner's instants differ from Jobmill's, for some expressions: each has one reason.
const REASONS: &[(&[&str], &str)] = &[
    (
        &["0 0 */9 4 MON", "0 12 1-7 4 */3"],
        "a day field that begins with * restricts the other, as in Vixie's cron; croner joins them",
    ),
    (
        &["59 23 * * *"],
        "a fixed time in a gap that ends with the day runs at the next midnight; croner has none",
    ),
    (
        &["0 12 * * *", "30 2 * * FRI", "0 0 30 * *"],
        "a fixed time of the day that Apia skipped runs at the start of the next; croner has none",
    ),
    (
        &[
            "0,30 2 * * *",
            "30 2,14 * * *",
            "0 2,3 * * *",
            "30 2,3 * * *",
            "15,45 1,3 * * *",
            "30 */2 * * *",
            "0 */2 * * *",
            "15 */3 * * *",
            "0 */6 * * *",
            "0 1-4 * * *",
            "30 0-3 * * *",
            "30 22-23,0-2 * * *",
            "*/20 2 * * *",
            "*/15 59 23 * * 6",
            "0 30 1-3 * * SUN",
        ],
        "times of chosen hours are fixed: one run after the gap, one in the fold; croner skips them, and runs twice",
    ),
];

/// Returns croner's instants of all pairs, in seconds.
fn of_croner(folder: &Path) -> Vec<BTreeSet<i64>> {
    let root = Command::new("npm").args(["root", "--global"]).output().expect("npm, which .ci/setup needs");
    let output = Command::new("node")
        .arg(folder.join("year.mjs"))
        .env("NODE_PATH", String::from_utf8(root.stdout).unwrap().trim())
        .output()
        .expect("node, which .ci/setup needs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn start_of(year: i64) -> i64 {
    let start: jiff::Timestamp = format!("{year}-01-01T00:00:00Z").parse().unwrap();
    start.as_second()
}

fn of_jobmill(expression: &str, zone: &str, year: i64) -> BTreeSet<i64> {
    let spec = TimetableSpec {
        crons: vec![expression.to_owned()],
        time_zone: zone.to_owned(),
        ..TimetableSpec::default()
    };
    let made = Timestamp::from_micros(start_of(year) * 1_000_000);
    let timetable = Timetable::new(&spec, &Excluded::default(), made, 0).unwrap();
    let instants = timetable.after(Timestamp::from_micros(made.as_micros() - 1));
    let seconds = instants.map(|instant| instant.nominal.as_micros() / 1_000_000);
    seconds.take_while(|second| *second < start_of(year + 1)).collect()
}

#[test]
fn a_year_of_croners_instants_differs_only_where_the_rule_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/timetable");
    let pairs = fs::read_to_string(folder.join("year.txt")).unwrap();
    let (mut year_text, mut differences) = (String::new(), String::new());
    let of_croner = of_croner(&folder);
    assert_eq!(of_croner.len(), pairs.lines().count());
    for (line, theirs) in pairs.lines().zip(of_croner) {
        let fields: Vec<_> = line.split('\t').collect();
        let (expression, zone, year) = (fields[0], fields[1], fields[2].parse().unwrap());
        let lines: String = theirs.iter().map(|second| format!("{second}\n")).collect();
        let digest: String = Sha256::digest(lines)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(year_text, "{expression}\t{zone}\t{year}\t{}\t{digest}", theirs.len()).unwrap();
        let ours = of_jobmill(expression, zone, year);
        let different: BTreeSet<_> = ours.symmetric_difference(&theirs).collect();
        if different.is_empty() {
            continue;
        }
        let reason = REASONS.iter().find(|(expressions, _)| expressions.contains(&expression));
        let (_, reason) =
            reason.unwrap_or_else(|| panic!("{line}: {different:?} differ, and no rule says why"));
        writeln!(differences, "{expression}\t{zone}\t{year}\t{reason}").unwrap();
        for second in different {
            let side = if ours.contains(second) { '+' } else { '-' };
            writeln!(differences, "{side} {}", jiff::Timestamp::from_second(*second).unwrap()).unwrap();
        }
    }
    for (name, text) in [("year.txt", year_text), ("differences.txt", differences)] {
        if std::env::var_os("JOBMILL_REWRITE").is_some() {
            fs::write(folder.join(name), text).unwrap();
        } else {
            let kept = fs::read_to_string(folder.join(name)).unwrap();
            assert!(kept == text, "{name} is not what croner says now: see the first lines of this file");
        }
    }
}
