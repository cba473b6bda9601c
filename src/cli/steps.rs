//! The commands that the demo's jobs run: hidden verbs of this program, so that the demo needs nothing else. They are
//! written as any command of a job may be: input on stdin, result on stdout, errors on stderr, progress on a descriptor
//! of its own.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use sha2::{Digest, Sha256};

/// The name of the verb that computes a checksum.
pub(super) const CHECKSUM: &str = "__checksum";
/// The name of the verb that fails a few times.
pub(super) const FLAKY: &str = "__flaky";
/// The name of the verb that runs until it is stopped.
pub(super) const SLEEP: &str = "__sleep";

/// Exit code `EX_NOINPUT`: a retry would not find the file either.
pub(super) const EXIT_NO_INPUT: u8 = 66;
/// Exit code 128 + SIGTERM, as a shell reports it.
const EXIT_TERMINATED: u8 = 143;

const CHUNK_BYTES: usize = 256 << 10;

/// A hidden verb.
#[derive(Debug, clap::Subcommand)]
pub(super) enum HiddenVerb {
    /// Print the SHA-256 of the file whose path is on stdin
    #[command(name = CHECKSUM, hide = true)]
    Checksum,
    /// Fail as many attempts as stdin says, then succeed
    #[command(name = FLAKY, hide = true)]
    Flaky,
    /// Run until SIGTERM
    #[command(name = SLEEP, hide = true)]
    Sleep,
}

/// Runs a hidden verb.
pub(super) fn run(step: HiddenVerb) -> ExitCode {
    let done = match step {
        HiddenVerb::Checksum => checksum(),
        HiddenVerb::Flaky => flaky(),
        HiddenVerb::Sleep => sleep(),
    };
    done.unwrap_or_else(|error| complaint(&error.to_string(), 1))
}

fn complaint(message: &str, exit_code: u8) -> ExitCode {
    // If this can't be written, the exit code alone reports the failure.
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(exit_code)
}

fn checksum() -> io::Result<ExitCode> {
    let mut path = Vec::new();
    io::stdin().lock().read_to_end(&mut path)?;
    let path = PathBuf::from(OsString::from_vec(path));
    let mut progress = Progress::open();
    match sha256(&path, |fraction| progress.tell(fraction, "read")) {
        Ok(hex) => {
            io::stdout().write_all(hex.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Ok(complaint(&format!("{}: {error}", path.display()), EXIT_NO_INPUT)),
    }
}

/// Returns the SHA-256 of a file in hexadecimal, and reports progress after each chunk.
fn sha256(path: &Path, mut progress: impl FnMut(f64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len().max(1);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut read: u64 = 0;
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => {
                hash.update(&chunk[..count]);
                read += count as u64;
                progress(read as f64 / size as f64);
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn flaky() -> io::Result<ExitCode> {
    let mut failures = String::new();
    io::stdin().lock().read_to_string(&mut failures)?;
    let failures: u32 = failures.trim().parse().map_err(io::Error::other)?;
    let attempt = std::env::var("JOBMILL_ATTEMPT").unwrap_or_default();
    let number: u32 = attempt.parse().map_err(io::Error::other)?;
    if number <= failures {
        return Ok(complaint(&format!("attempt {number} fails on purpose"), 1));
    }
    write!(io::stdout(), "attempt {number} succeeded")?;
    Ok(ExitCode::SUCCESS)
}

fn sleep() -> io::Result<ExitCode> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
    Progress::open().tell(0.5, "waiting to be cancelled");
    // Exit code 0 after SIGTERM would count as success.
    signals.forever().next();
    Ok(complaint("asked to stop", EXIT_TERMINATED))
}

/// The descriptor for progress. Without one, as in a plain shell, no progress is reported.
struct Progress(Option<File>);

impl Progress {
    fn open() -> Self {
        let number = std::env::var("JOBMILL_PROGRESS_FD").ok().and_then(|fd| fd.parse::<u32>().ok());
        // Taking over a bare descriptor would be unsafe code; opening it by its name is the same pipe.
        Progress(number.and_then(|fd| fs::OpenOptions::new().write(true).open(format!("/dev/fd/{fd}")).ok()))
    }

    fn tell(&mut self, fraction: f64, text: &str) {
        if let Some(pipe) = &mut self.0 {
            // Progress is best effort.
            let _ = writeln!(pipe, "{fraction:.3} {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_everybody_computes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        let mut told = Vec::new();
        let hex = sha256(file.path(), |fraction| told.push(fraction)).unwrap();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(told, [1.0]);
    }
}
