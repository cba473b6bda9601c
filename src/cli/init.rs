//! The init of a container, for a server that is started as its first process.
//!
//! Orphaned processes of a container become children of its process 1, which must reap them, or they stay zombies. The
//! server can't tell them from its own children, whose ends it waits for itself. So process 1 is an init only, and the
//! server is its child.

use std::process::ExitCode;

/// Starts this program again as a child if this is process 1, and acts as an init until the child ends: reaps
/// processes, and forwards the signals that a server understands. Returns the child's exit code, or 128 plus the number
/// of the signal that killed it.
///
/// Returns `None` in any other process, and where no child can be started: the server then runs without an init.
#[cfg(target_os = "linux")]
pub(super) fn run() -> Option<ExitCode> {
    use std::{
        env,
        io::{self, Write},
        os::unix::process::CommandExt,
        process::{self, Command},
    };

    use rustix::{
        io::Errno,
        process::{Pid, Signal, WaitOptions, kill_process, wait},
    };
    use signal_hook::{
        consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM},
        iterator::Signals,
    };

    if process::id() != 1 {
        return None;
    }
    let started = || {
        // Registered before the child starts, so that neither its end nor a signal for it is missed.
        let signals = Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP])?;
        // In a process group of its own, so that a signal from the terminal reaches it only once, forwarded from here.
        let mut server = Command::new(env::current_exe()?);
        let mut words = env::args_os();
        if let Some(name) = words.next() {
            server.arg0(name);
        }
        let server = server.args(words).process_group(0).spawn()?;
        Ok::<_, io::Error>((signals, server))
    };
    let (mut signals, server) = match started() {
        Ok(started) => started,
        Err(error) => {
            let _ = writeln!(io::stderr(), "warning: without an init, zombie processes may stay: {error}");
            return None;
        }
    };
    let server = Pid::from_child(&server);
    for signal in signals.forever() {
        if let Some(signal) = Signal::from_named_raw(signal).filter(|&signal| signal != Signal::CHILD) {
            // An error means that the server has ended.
            let _ = kill_process(server, signal);
            continue;
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((ended, status))) if ended == server => {
                    let code =
                        status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
                    let code = code.and_then(|code| u8::try_from(code).ok());
                    return Some(code.map_or(ExitCode::FAILURE, ExitCode::from));
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
    }
    None
}

#[cfg(not(target_os = "linux"))]
pub(super) fn run() -> Option<ExitCode> {
    None
}
