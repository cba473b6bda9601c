//! Tracking, killing and reaping a command's processes, from within its guard.
//!
//! A pid is signalled only while it can't have been reused: the command's first process and the guard's other children
//! stay zombies until the guard itself reaps them, and a group keeps its number while it has a member.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process, kill_process_group, wait, waitid,
        waitpid,
    },
};

use super::frame::Ending;

/// Makes this process the parent of descendants whose own parents end (a child subreaper), so that none can escape by
/// `setsid`.
///
/// Linux only. On other systems a process that leaves the command's group on purpose is out of reach.
pub(super) fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Returns whether the command's first process has ended. The process stays a zombie, and so keeps its pid and its
/// group's number.
pub(super) fn is_over(leader: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    match waitid(WaitId::Pid(leader), options) {
        Ok(status) => Ok(status.is_some()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => {
            kill(leader);
            Err(error.into())
        }
    }
}

/// Signals the command's process group, and continues its stopped processes, which would not handle the signal
/// otherwise.
pub(super) fn signal_group(leader: Pid, signal: Signal) {
    let _ = kill_process_group(leader, signal);
    let _ = kill_process_group(leader, Signal::CONT);
}

/// Kills the command's group, its leader and the guard's children. `leader` must not have been reaped.
pub(super) fn kill(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
    // The leader may have moved to another group.
    let _ = kill_process(leader, Signal::KILL);
    kill_children();
}

/// Reaps descendants that ended while the command still runs, so that a long command does not accumulate zombies.
pub(super) fn orphans(leader: Pid) {
    for child in children() {
        if child != leader {
            let _ = waitpid(Some(child), WaitOptions::NOHANG);
        }
    }
}

/// Kills the processes left when the command's first process ended, and reaps all of them.
///
/// On Linux, no process is left when this returns: the kernel hands orphans to the guard in the same step in which
/// their parent becomes a zombie, so a guard without children has no descendants.
pub(super) fn all(leader: Pid, wakes: &UnixStream) -> io::Result<Ending> {
    kill(leader);
    let ending = loop {
        match waitid(WaitId::Pid(leader), WaitIdOptions::EXITED) {
            Ok(Some(status)) => break status,
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => {
                kill_children();
                pause(wakes);
            }
            Err(_) => break,
        }
    }
    #[cfg(not(target_os = "linux"))]
    settle(leader, wakes);
    Ok(match (ending.exit_status(), ending.terminating_signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, signal) => Ending::Signal(signal.unwrap_or(Signal::KILL.as_raw())),
    })
}

/// Waits, for a limited time, until the killed members of the group are gone: on systems other than Linux the guard
/// can't reap them.
#[cfg(not(target_os = "linux"))]
fn settle(leader: Pid, wakes: &UnixStream) {
    const PAUSES_MAX: u32 = 100;
    for _ in 0..PAUSES_MAX {
        if rustix::process::test_kill_process_group(leader).is_err() {
            return;
        }
        pause(wakes);
    }
}

/// Waits until a child has ended, at most 10 ms: new orphans cause no signal.
fn pause(wakes: &UnixStream) {
    const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    let _ = poll(&mut [PollFd::new(wakes, PollFlags::IN)], Some(&PAUSE));
    drain_wakes(wakes);
}

/// Drains the socket that signals ended children, and returns whether it held anything.
pub(super) fn drain_wakes(mut wakes: &UnixStream) -> bool {
    let mut buffer = [0; 64];
    let mut any = false;
    while wakes.read(&mut buffer).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}

fn kill_children() {
    for child in children() {
        let _ = kill_process(child, Signal::KILL);
    }
}

/// Returns the guard's child processes.
#[cfg(target_os = "linux")]
fn children() -> Vec<Pid> {
    // The cheap way, which not every kernel offers.
    if let Ok(listed) = std::fs::read_to_string("/proc/thread-self/children") {
        return listed.split_ascii_whitespace().filter_map(pid).collect();
    }
    let me = rustix::process::getpid();
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|process| pid(process.file_name().to_str()?))
        .filter(|process| {
            // `pid (name) state parent …`, where the name may contain anything.
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
            parent.and_then(pid) == Some(me)
        })
        .collect()
}

#[cfg(target_os = "linux")]
fn pid(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

#[cfg(not(target_os = "linux"))]
fn children() -> Vec<Pid> {
    Vec::new()
}
