//! Fault-injecting disks, as VFSs that SQLite uses in place of the system's own.
//!
//! A [`Disk`] forwards every call to the system's files and records what a power cut would leave: the flushed contents
//! and the writes since the last flush. It can be full, fail flushes, flush slowly, or hang in a flush.

mod vfs;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// A disk, identified by the name of its VFS.
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

/// A file's flushed contents, and the changes since the last flush.
#[derive(Debug, Default)]
struct Image {
    flushed: Vec<u8>,
    /// The changes since the last flush, oldest first.
    since: Vec<Change>,
    length: u64,
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Disk {
    /// Registers a disk without faults. Its name must be new in this process.
    pub fn new(name: &str) -> Self {
        let faults: &'static Faults = Box::leak(Box::default());
        vfs::register(name, faults);
        Disk { name: name.to_owned(), faults }
    }

    /// Returns the name of the VFS.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Limits the size of the disk to this many bytes from now on; `None` removes the limit.
    pub fn holds(&self, bytes: Option<u64>) {
        self.faults.state.lock().capacity = bytes;
    }

    /// Returns the number of bytes on the disk.
    pub fn used(&self) -> u64 {
        self.faults.state.lock().used()
    }

    /// Makes each flush fail with an input/output error from now on.
    pub fn refuse_flushes(&self) {
        self.faults.state.lock().flush_fails = true;
    }

    /// Makes each flush take at least this long from now on.
    pub fn flush_in(&self, time: Duration) {
        self.faults.state.lock().flush_takes = time;
    }

    /// Makes each flush hang from now on, until [`Disk::release`].
    pub fn hang(&self) {
        self.faults.state.lock().hangs = true;
    }

    /// Releases flushes that hang.
    pub fn release(&self) {
        self.faults.state.lock().hangs = false;
        self.faults.changed.notify_all();
    }

    /// Waits until a flush hangs or the time is over; returns whether one hangs.
    pub fn wait_for_hang(&self, timeout: Duration) -> bool {
        let mut state = self.faults.state.lock();
        self.faults.changed.wait_while_for(&mut state, |state| state.hanging == 0, timeout);
        state.hanging > 0
    }

    /// Returns the number of flushes so far.
    pub fn flushes(&self) -> u64 {
        self.faults.state.lock().flushes
    }

    /// Returns the number of flushes that failed by [`Disk::refuse_flushes`].
    pub fn refused_flushes(&self) -> u64 {
        self.faults.state.lock().refused_flushes
    }

    /// Returns the number of writes that did not fit.
    pub fn refused_writes(&self) -> u64 {
        self.faults.state.lock().refused_writes
    }

    /// Writes the files of the folder `of` into `folder` as a power cut at this moment would leave them: the flushed
    /// contents, and some of the sectors that were written since, chosen by `dice` (a number below its argument).
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
            // Two of the cases are a disk that kept none of the later writes, and one that kept them all.
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

    /// Returns whether a file may grow to this length.
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
    /// Flushes a file with the faults that are set; returns whether it succeeds.
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
