//! Disks that fail, as files that SQLite is given in place of the system's own.
//!
//! A [`Disk`] passes everything on to the system's files and keeps beside them what a power cut would leave: what has
//! been flushed, and the writes since then. It can run full, refuse to flush, flush slowly, or hang in a flush.

mod vfs;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// A disk, by the name under which SQLite knows it.
#[derive(Debug)]
pub struct Disk {
    name: String,
    faults: &'static Faults,
}

#[derive(Debug, Default)]
struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, Image>,
    capacity: Option<u64>,
    flush_fails: bool,
    flush_takes: Duration,
    hangs: bool,
    hanging: usize,
    flushes: u64,
    refused_flushes: u64,
    refused_writes: u64,
}

/// A file as it is, and as far as it has been flushed.
#[derive(Debug, Default)]
struct Image {
    flushed: Vec<u8>,
    /// What has been written since, oldest first.
    since: Vec<Change>,
    length: u64,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Disk {
    /// A disk without faults. Its name must be new in this process.
    pub fn new(name: &str) -> Self {
        let faults: &'static Faults = Box::leak(Box::default());
        vfs::register(name, faults);
        Disk { name: name.to_owned(), faults }
    }

    /// The name of the VFS.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// From now on it holds no more than so many bytes; `None` is no bound.
    pub fn holds(&self, bytes: Option<u64>) {
        self.faults.state.lock().capacity = bytes;
    }

    /// How many bytes are on it.
    pub fn used(&self) -> u64 {
        self.faults.state.lock().used()
    }

    /// From now on each flush fails with an input/output error.
    pub fn refuse_flushes(&self) {
        self.faults.state.lock().flush_fails = true;
    }

    /// From now on each flush takes so long at least.
    pub fn flush_in(&self, time: Duration) {
        self.faults.state.lock().flush_takes = time;
    }

    /// From now on each flush hangs, until [`Disk::release`].
    pub fn hang(&self) {
        self.faults.state.lock().hangs = true;
    }

    /// Lets hanging flushes go on.
    pub fn release(&self) {
        self.faults.state.lock().hangs = false;
        self.faults.changed.notify_all();
    }

    /// Returns once a flush hangs, or the time is over; whether one does.
    pub fn wait_for_hang(&self, patience: Duration) -> bool {
        let mut state = self.faults.state.lock();
        self.faults.changed.wait_while_for(&mut state, |state| state.hanging == 0, patience);
        state.hanging > 0
    }

    /// How many flushes there have been.
    pub fn flushes(&self) -> u64 {
        self.faults.state.lock().flushes
    }

    /// How many flushes it has refused.
    pub fn refused_flushes(&self) -> u64 {
        self.faults.state.lock().refused_flushes
    }

    /// How many writes did not fit.
    pub fn refused_writes(&self) -> u64 {
        self.faults.state.lock().refused_writes
    }

    /// Writes into `folder` what a power cut at this moment would leave of the files in `of`: what was flushed, and of
    /// what was written since then some sectors and not others, as `dice` (a number below its argument) decides.
    pub fn power_cut(
        &self,
        of: &Path,
        folder: &Path,
        mut dice: impl FnMut(u64) -> u64,
    ) -> std::io::Result<()> {
        const SECTOR: usize = 512;
        let state = self.faults.state.lock();
        for (path, image) in state.files.iter().filter(|(path, _)| path.parent() == Some(of)) {
            let mut bytes = image.flushed.clone();
            // A disk that has nothing after a point in time is one of the cases, and so is one that has everything.
            let (whole, share) = (dice(4) == 0, dice(100));
            for change in &image.since {
                match change {
                    Change::Write(at, data) => {
                        for (index, sector) in data.chunks(SECTOR).enumerate() {
                            if whole || dice(100) < share {
                                write_at(&mut bytes, *at as usize + index * SECTOR, sector);
                            }
                        }
                    }
                    Change::Truncate(length) if whole || dice(2) == 0 => bytes.resize(*length as usize, 0),
                    Change::Truncate(_) => {}
                }
            }
            if let Some(name) = path.file_name() {
                fs::write(folder.join(name), bytes)?;
            }
        }
        Ok(())
    }
}

impl State {
    fn used(&self) -> u64 {
        self.files.values().map(|image| image.length).sum()
    }

    /// Whether a file may grow to this length.
    fn fits(&mut self, path: &Path, length: u64) -> bool {
        let known = self.files.get(path).map_or(0, |image| image.length);
        let fits =
            length <= known || self.capacity.is_none_or(|bytes| self.used() + (length - known) <= bytes);
        self.refused_writes += u64::from(!fits);
        fits
    }
}

impl Image {
    fn changed(&mut self, change: Change) {
        match &change {
            Change::Write(at, data) => self.length = self.length.max(at + data.len() as u64),
            Change::Truncate(length) => self.length = *length,
        }
        self.since.push(change);
    }

    fn flush(&mut self) {
        for change in self.since.drain(..) {
            match change {
                Change::Write(at, data) => write_at(&mut self.flushed, at as usize, &data),
                Change::Truncate(length) => self.flushed.resize(length as usize, 0),
            }
        }
    }
}

fn write_at(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

impl Faults {
    /// A flush, with all that may happen to it; whether it succeeds.
    fn flush(&self, path: &Path) -> bool {
        let delay = {
            let mut state = self.state.lock();
            state.hanging += 1;
            self.changed.notify_all();
            self.changed.wait_while(&mut state, |state| state.hangs);
            state.hanging -= 1;
            state.flush_takes
        };
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut state = self.state.lock();
        if state.flush_fails {
            state.refused_flushes += 1;
            return false;
        }
        state.flushes += 1;
        if let Some(image) = state.files.get_mut(path) {
            image.flush();
        }
        true
    }
}
