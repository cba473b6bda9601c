//! Killing a command whose guard was lost.

use rustix::process::{Pid, Signal, kill_process_group};

/// Kills the command's group. `leader` is what the guard told before it was lost.
///
/// Nobody holds the leader's pid any more, but a group keeps its number while it has a member, and a number that is
/// free is given out again only after all others.
pub(super) fn kill_group(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
}

/// Kills what still holds a writing end of one of these pipes: what left the group, or a whole command whose guard was
/// lost in the instant between starting it and telling so. `pipes` are inode numbers.
#[cfg(target_os = "linux")]
pub(super) fn kill_writers(pipes: &[u64]) {
    /// A process may fork while the others are looked through, but not outrun this.
    const ROUNDS_MAX: u32 = 100;
    let links: Vec<String> = pipes.iter().map(|inode| format!("pipe:[{inode}]")).collect();
    for _ in 0..ROUNDS_MAX {
        if !kill_writers_once(&links) {
            return;
        }
    }
}

#[cfg(target_os = "linux")]
fn kill_writers_once(links: &[String]) -> bool {
    use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    let mut any = false;
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|&pid| pid != rustix::process::getpid()) else { continue };
        // First the handle, then the look: what is seen to write can then be no other process when it is killed.
        if let Ok(handle) = pidfd_open(pid, PidfdFlags::empty())
            && writes(pid, links)
        {
            any |= pidfd_send_signal(&handle, Signal::KILL).is_ok();
        }
    }
    any
}

/// Whether a process can write into one of the pipes. To hold a reading end is not enough: every process that the
/// server is just starting does for an instant.
#[cfg(target_os = "linux")]
fn writes(process: Pid, links: &[String]) -> bool {
    use std::os::unix::fs::PermissionsExt;

    const WRITE: u32 = 0o200;
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        let path = descriptor.path();
        let leads_there = std::fs::read_link(&path)
            .is_ok_and(|link| links.iter().any(|known| link.as_os_str() == known.as_str()));
        leads_there
            && path.symlink_metadata().is_ok_and(|metadata| metadata.permissions().mode() & WRITE != 0)
    })
}
