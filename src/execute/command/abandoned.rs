//! Finding and killing the processes that a lost guard has left, by their open files. Linux only.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use super::{
    GUARD_NAME,
    environment::{JOB_ID_VARIABLE, LEASE_VARIABLE},
};

/// A process that holds the lock file of an earlier server's commands.
pub(super) struct Holder {
    pub(super) pid: Pid,
    pub(super) name: String,
    /// Whether the process is a command's: started by a guard, or by a process that a guard started.
    pub(super) is_command: bool,
}

impl Holder {
    fn new(pid: Pid) -> Self {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Holder { pid, name: name.trim_end().to_owned(), is_command: is_command(pid) }
    }

    /// Whether the process is a guard, which kills its command by itself.
    pub(super) fn is_guard(&self) -> bool {
        self.name == GUARD_NAME
    }
}

/// Kills the processes that still hold a write end of one of these pipes: processes that left the group, or a whole
/// command whose guard was lost between starting it and reporting so. `pipes` are inode numbers.
pub(super) fn kill_writers(pipes: &[u64]) {
    let links: Vec<String> = pipes.iter().map(|inode| format!("pipe:[{inode}]")).collect();
    kill_all(|process| writes(process, &links));
}

/// Returns the processes that hold the lock, as far as this user can see them.
pub(super) fn holders(lock: &File, path: &Path) -> io::Result<Vec<Holder>> {
    let lock = Lock::new(lock, path)?;
    Ok(processes().filter(|&process| lock.is_held_by(process)).map(Holder::new).collect())
}

/// Kills the commands that hold the lock, with the processes that they started. Guards take the lock and commands
/// inherit it, so a process that holds it and has a command's variables is a command.
pub(super) fn kill_commands(lock: &File, path: &Path) -> io::Result<()> {
    let lock = Lock::new(lock, path)?;
    kill_all(|process| is_command(process) && lock.is_held_by(process));
    Ok(())
}

/// Returns whether a process was started with the variables that commands get.
fn is_command(process: Pid) -> bool {
    let variables = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    let marks = [JOB_ID_VARIABLE, LEASE_VARIABLE].map(|name| format!("{name}=").into_bytes());
    marks.iter().all(|mark| variables.split(|&byte| byte == 0).any(|variable| variable.starts_with(mark)))
}

/// Kills the processes for which `is_one` is true, and those that they start meanwhile.
fn kill_all(is_one: impl Fn(Pid) -> bool) {
    /// Limit of passes over all processes, since a process may fork during a pass.
    const ROUNDS_MAX: u32 = 100;
    for _ in 0..ROUNDS_MAX {
        let mut any = false;
        for process in processes() {
            // The handle is opened before the check, so the checked process can't be another one when it is killed.
            if let Ok(handle) = pidfd_open(process, PidfdFlags::empty())
                && is_one(process)
            {
                any |= pidfd_send_signal(&handle, Signal::KILL).is_ok();
            }
        }
        if !any {
            return;
        }
    }
}

/// Returns all processes but this one.
fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter_map(Pid::from_raw);
    pids.filter(|&pid| pid != getpid())
}

/// Returns whether a process can write to one of the pipes. A read end is not enough: every process that the server is
/// just starting holds one briefly.
fn writes(process: Pid, links: &[String]) -> bool {
    const WRITE: u32 = 0o200;
    let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let path = descriptor.path();
        let leads_there = fs::read_link(&path)
            .is_ok_and(|link| links.iter().any(|known| link.as_os_str() == known.as_str()));
        leads_there
            && path.symlink_metadata().is_ok_and(|metadata| metadata.permissions().mode() & WRITE != 0)
    })
}

/// The identity of a lock file.
struct Lock<'a> {
    path: &'a Path,
    device: u64,
    inode: u64,
}

impl<'a> Lock<'a> {
    fn new(file: &File, path: &'a Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Lock { path, device: metadata.dev(), inode: metadata.ino() })
    }

    /// Whether the process has the file open and holds a lock on it. An open file alone is not enough: a program that
    /// copies the folder has it open briefly.
    fn is_held_by(&self, process: Pid) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        descriptors.flatten().any(|descriptor| {
            let path = descriptor.path();
            // The name is compared first, as `metadata` of another file could hang with its file system.
            fs::read_link(&path).is_ok_and(|link| link.file_name() == self.path.file_name())
                && path.metadata().is_ok_and(|found| found.dev() == self.device && found.ino() == self.inode)
                && has_lock(process, &descriptor.file_name().to_string_lossy())
        })
    }
}

/// Returns whether the kernel lists a lock for a descriptor.
fn has_lock(process: Pid, descriptor: &str) -> bool {
    fs::read_to_string(format!("/proc/{process}/fdinfo/{descriptor}"))
        .is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK")))
}
