//! The first process of a container: what an init does, for a server that is started as one.
//!
//! Processes whose parents end go to process 1 of their container, which must wait for them, or they stay zombies. They
//! can't be told from children of the server's own, whose ends the server itself waits for. So process 1 is nothing but
//! an init, and the server its child.

use std::process::ExitCode;

/// Runs this same program as a child if this is process 1, and does an init's work until that ends: reaps all that ends,
/// and passes on the signals that a server understands. Returns the child's exit code, or 128 and the number of the
/// signal that killed it.
///
/// `None` in any other process, and where no child can be started: the server then does without an init.
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
        // Before the child is there, so that neither its end nor a signal for it is missed.
        let signals = Signals::new([SIGCHLD, SIGTERM, SIGINT, SIGHUP])?;
        // In a group of its own: what a terminal sends comes to it once, from here.
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
            let _ = writeln!(io::stderr(), "warning: no init for the server, zombies may be left: {error}");
            return None;
        }
    };
    let server = Pid::from_child(&server);
    for signal in signals.forever() {
        if let Some(signal) = Signal::from_named_raw(signal).filter(|&signal| signal != Signal::CHILD) {
            // An error means that it has ended.
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
