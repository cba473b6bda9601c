//! Checks of the data folder and the disk below it.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jobmill::{
    clock::Timestamp,
    settings::Settings,
    store::{
        StoreError,
        sqlite::{self, Checkup, SetAsideRows},
    },
};

use super::{Finding, leftover, ok, problem, text, warning};

const FOLDER: &str = "data folder";
const SPACE: &str = "free space";
const FILE_SYSTEM: &str = "file system";
const FLUSH: &str = "flush";
const DATABASE: &str = "database";
const ROWS: &str = "unreadable rows";

/// Free space below which the doctor warns.
const SPACE_LOW_BYTES: u64 = 1 << 30;
/// Flush time above which the doctor warns, because every submission waits for a flush.
const FLUSH_SLOW: Duration = Duration::from_millis(20);
/// Flush time below which the doctor warns: no device is so fast, so that something below it ignores flushes.
const FLUSH_UNBELIEVABLE: Duration = Duration::from_micros(5);
const FLUSHES: usize = 21;

pub(super) fn check(folder: &Path, settings: &Settings, quick: bool, now: Timestamp) -> Vec<Finding> {
    let shown = folder.display();
    let min_free_bytes = settings.disk.min_free_bytes;
    let metadata = match fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            return vec![problem(FOLDER, format!("{shown} is not a folder"), "set data_dir to a folder")];
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return absent(folder, min_free_bytes),
        Err(error) => {
            let way_out = "give this user access to it, or run the doctor as the user who runs the server";
            return vec![problem(FOLDER, format!("{shown} can't be read: {error}"), way_out)];
        }
    };
    let mut findings = Vec::new();
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    let is_writable = rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok();
    findings.push(if !is_own {
        warning(
            FOLDER,
            format!(
                "{shown} belongs to another user (uid {}); its disk and database were not tried",
                metadata.uid()
            ),
            "run the doctor as the user who runs the server",
        )
    } else if !is_writable {
        problem(FOLDER, format!("this user may not write to {shown}"), format!("chmod u+rwx {shown}"))
    } else if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        let message =
            format!("{shown} is open to other users (mode {mode:03o}), and so are the payloads in it");
        warning(FOLDER, message, format!("chmod 700 {shown}"))
    } else {
        ok(FOLDER, format!("{shown} is this user's alone"))
    });
    findings.push(space(folder, min_free_bytes));
    findings.extend(file_system(folder));
    // Files left here by another user could not be opened by the server's user.
    if is_own && is_writable {
        if !quick {
            findings.push(flush(folder));
        }
        findings.extend(database(folder, quick));
        findings.extend(leftover::check(folder, settings));
        findings.extend(age(folder, now));
    }
    findings
}

/// Checks a folder that does not exist yet, and that the server would create.
fn absent(folder: &Path, min_free_bytes: u64) -> Vec<Finding> {
    let shown = folder.display();
    let existing = folder.ancestors().skip(1).find(|parent| parent.exists()).unwrap_or(Path::new("/"));
    if rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_err() {
        let message =
            format!("{shown} does not exist, and this user can't make it in {}", existing.display());
        return vec![problem(FOLDER, message, "make it, and give it to the user who runs the server")];
    }
    let mut findings = vec![ok(FOLDER, format!("{shown} does not exist yet; the server will make it"))];
    findings.push(space(existing, min_free_bytes));
    findings.extend(file_system(existing));
    findings
}

fn space(folder: &Path, min_free_bytes: u64) -> Finding {
    let free = match sqlite::free_bytes(folder) {
        Ok(free) => free,
        Err(error) => return warning(SPACE, format!("can't be determined: {error}"), "check it with `df`"),
    };
    let message = format!("{} are free", text::bytes(free));
    if free < min_free_bytes {
        let message = format!("{message}, less than disk.min_free ({})", text::bytes(min_free_bytes));
        return problem(SPACE, message, "make room: no new job is accepted until then");
    }
    if free < SPACE_LOW_BYTES.max(min_free_bytes.saturating_mul(2)) {
        return warning(SPACE, message, "make room before it runs out");
    }
    ok(SPACE, message)
}

/// Doubtful file systems: the magic number that Linux knows each by, its name, and what is wrong with it.
#[cfg(target_os = "linux")]
const DOUBTFUL: [(u32, &str, &str); 11] = [
    (0x6969, "NFS", NETWORK),
    (0xff53_4d42, "CIFS", NETWORK),
    (0xfe53_4d42, "SMB", NETWORK),
    (0x517b, "SMB", NETWORK),
    (0x0102_1997, "9p", NETWORK),
    (0x00c3_6400, "Ceph", NETWORK),
    (0x5346_414f, "AFS", NETWORK),
    (0x0bd0_0bd0, "Lustre", NETWORK),
    (0x6573_5546, "FUSE", "what is below is unknown, and its locks and flushes may be no good"),
    (0x0102_1994, "tmpfs", "it is memory: all jobs are gone at the next boot"),
    (0x794c_7630, "overlayfs", "it may be a container's own: all jobs are then gone with the container"),
];

#[cfg(target_os = "linux")]
const NETWORK: &str = "locks and flushes of network file systems can't be relied upon";

#[cfg(target_os = "linux")]
fn file_system(folder: &Path) -> Option<Finding> {
    let found = rustix::fs::statfs(folder).ok()?;
    // Magic numbers have 32 bits, whatever the width and the sign of the field.
    let magic = u32::try_from(i128::from(found.f_type) & 0xffff_ffff).unwrap_or_default();
    Some(match DOUBTFUL.into_iter().find(|(number, ..)| *number == magic) {
        Some((_, name, doubt)) => {
            warning(FILE_SYSTEM, format!("{name}: {doubt}"), "put the data folder on a local disk")
        }
        None => ok(FILE_SYSTEM, "local"),
    })
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Option<Finding> {
    None
}

fn flush(folder: &Path) -> Finding {
    let typical = match measure(folder) {
        Ok(typical) => typical,
        Err(error) => {
            let way_out = "see what the system's log says of the disk";
            return problem(FLUSH, format!("a file can't be written and flushed: {error}"), way_out);
        }
    };
    let message = format!("takes {typical:.1?} (median of {FLUSHES})");
    if typical > FLUSH_SLOW {
        return warning(FLUSH, message, "submissions wait for flushes: use a faster disk");
    }
    if typical < FLUSH_UNBELIEVABLE {
        let doubt =
            "no disk is so fast: make sure that flushes are not ignored, or a power cut may lose jobs";
        return warning(FLUSH, message, doubt);
    }
    ok(FLUSH, message)
}

fn measure(folder: &Path) -> io::Result<Duration> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let mut took = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        file.write_all(&[0x5a; 4096])?;
        let start = now();
        file.as_file().sync_data()?;
        took.push(start.elapsed());
    }
    took.sort();
    Ok(took[FLUSHES / 2])
}

#[expect(clippy::disallowed_methods, reason = "a disk is measured in real time")]
fn now() -> Instant {
    Instant::now()
}

fn database(folder: &Path, quick: bool) -> Vec<Finding> {
    if quick {
        return vec![match sqlite::inventory(folder) {
            Ok(_) => ok(DATABASE, "not checked"),
            Err(error) => unreadable(&error),
        }];
    }
    let checked = sqlite::check(folder);
    let rows = match &checked {
        Ok(Checkup::InUse { set_aside } | Checkup::Checked { set_aside, .. }) if set_aside.count > 0 => {
            Some(set_aside_rows(set_aside))
        }
        _ => None,
    };
    std::iter::once(checkup(checked)).chain(rows).collect()
}

fn set_aside_rows(rows: &SetAsideRows) -> Finding {
    let mut first = rows.first.join("; ");
    if rows.count > rows.first.len() {
        first.push_str(&format!("; and {} more", rows.count - rows.first.len()));
    }
    warning(
        ROWS,
        format!(
            "{} can't be read, and set aside by the server: {first}",
            text::counted(rows.count as u64, "row")
        ),
        "their content is in the table `set_aside` of jobmill.db: docs/troubleshooting.md says what to do with it",
    )
}

fn checkup(checked: Result<Checkup, StoreError>) -> Finding {
    match checked {
        Ok(Checkup::Absent) => ok(DATABASE, "there is none yet; the server will make it"),
        Ok(Checkup::InUse { .. }) => ok(DATABASE, "a server has it open; not checked while it runs"),
        Ok(Checkup::Lost(missing)) => problem(
            DATABASE,
            format!("is not the one that was left there: {missing}"),
            "put the missing files back, restore a backup into a new folder, or start once with --accept-loss",
        ),
        Ok(Checkup::Checked { bytes, faults, .. }) if faults.is_empty() => {
            ok(DATABASE, format!("{} without a fault", text::bytes(bytes)))
        }
        Ok(Checkup::Checked { faults, .. }) => problem(
            DATABASE,
            format!("is damaged: {}", faults.join("; ")),
            "keep a copy of the folder, restore a backup, and have the disk checked",
        ),
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &StoreError) -> Finding {
    let told = error.to_string();
    match (error, told.split_once(": ")) {
        (StoreError::NewerSchema { .. }, Some((found, way_out))) => problem(DATABASE, found, way_out),
        _ => problem(
            DATABASE,
            format!("can't be read: {told}"),
            "is it a database of jobmill, and may this user read it?",
        ),
    }
}

/// Warns if the database was last changed in the future: this machine's clock is then behind.
fn age(folder: &Path, now: Timestamp) -> Option<Finding> {
    const TOLERANCE: Duration = Duration::from_secs(60);
    let files: [PathBuf; 2] = ["jobmill.db", "jobmill.db-wal"].map(|name| folder.join(name));
    let changed = files.iter().filter_map(|file| fs::metadata(file).ok()?.modified().ok()).max()?;
    let ahead = Timestamp::from(changed).since(now);
    (ahead > TOLERANCE).then(|| {
        let ahead = text::duration(ahead);
        let message = format!("the database was last changed {ahead} after what this machine says is now");
        warning(
            super::process::CLOCK,
            message,
            "set the clock, and keep it by NTP: schedules and expiry go by it, and retention waits",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::{clock::Clock, settings::StoreSettings};

    #[test]
    fn a_database_from_the_future_tells_of_a_clock_that_is_behind() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("jobmill.db");
        fs::write(&database, "").unwrap();
        let changed = Timestamp::from(fs::metadata(&database).unwrap().modified().unwrap());
        let before = |seconds: i64| Timestamp::from_micros(changed.as_micros() - seconds * 1_000_000);
        assert_eq!(age(dir.path(), changed), None);
        assert_eq!(age(dir.path(), before(60)), None, "clocks are never quite the same");
        let found = age(dir.path(), before(90)).unwrap();
        assert!(found.message.contains("last changed 1m 30s after"), "{found:?}");
    }

    #[test]
    fn free_space_is_weighed_against_what_the_server_wants() {
        let dir = tempfile::tempdir().unwrap();
        let found = space(dir.path(), u64::MAX);
        assert_eq!(found.verdict, super::super::Severity::Problem);
        assert!(found.message.contains("disk.min_free"), "{found:?}");
        assert_ne!(space(dir.path(), 0).verdict, super::super::Severity::Problem);
    }

    #[test]
    fn a_folder_is_one_and_is_this_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let set_mode = |mode| {
            fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        let settings = Settings::new(StoreSettings::Memory);
        let verdict = |path: &Path| check(path, &settings, true, Clock::System.now()).remove(0);
        set_mode(0o700);
        assert_eq!(verdict(dir.path()).verdict, super::super::Severity::Ok);
        set_mode(0o750);
        let open = verdict(dir.path());
        assert!(open.message.contains("(mode 750)") && open.way_out.starts_with("chmod 700 "), "{open:?}");
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(verdict(&file).verdict, super::super::Severity::Problem);
        assert!(verdict(&dir.path().join("a/b")).message.ends_with("the server will make it"));
    }
}
