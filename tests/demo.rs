//! `jobmill demo` on a folder of files, which is the first command that a newcomer runs.

use std::{fs, process::Command};

#[test]
fn the_demo_does_what_it_says_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    for name in ["a", "sub/b with spaces", "sub/ünïcode"] {
        fs::write(folder.path().join(name), name.repeat(1_000)).unwrap();
    }
    fs::write(folder.path().join(".hidden"), "").unwrap();
    let temporary = tempfile::tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args(["demo", "--output", "json"])
        .arg(folder.path())
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect(&said);
    assert!(output.status.success(), "{report}\n{said}");
    assert_eq!(report["allWell"], true);
    assert_eq!((&report["files"], &report["checksumsAgreed"]), (&3.into(), &3.into()));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "the jobs' folder is removed");
}
