//! A bounded queue of lines between any number of threads and the one thread that writes to a file or a pipe.
//!
//! A thread that has something to say only adds a line to the queue. A reader that is slow, stopped or gone, and a disk
//! that is full, hold up the writing thread alone. A full queue refuses new lines and counts them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::clock::Stopwatch;

/// Maximum number of lines in a queue.
pub const LINES_MAX: usize = 8_192;
/// Size in bytes at which a queue takes no more lines.
pub const BYTES_MAX: usize = 4 << 20;

/// Counter of lost lines: those that a full queue refused, and those that could not be written.
#[derive(Clone, Debug, Default)]
pub struct LostLines(Arc<AtomicU64>);

impl LostLines {
    /// Returns the count since the start.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts further lost lines.
    pub fn add(&self, lines: u64) {
        self.0.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Sending end of the queue, for any thread.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Queue>);

/// Receiving end of the queue, for the writing thread. A line counts as done once the next one is requested. Dropping
/// the outlet closes the queue.
#[derive(Debug)]
pub struct Outlet {
    queue: Arc<Queue>,
    /// Notified once the line that was taken last is done.
    done: Option<oneshot::Sender<()>>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// Notified of a new line, and of the queue's closing.
    filled: Condvar,
    /// Notified when a line is done, and of the queue's closing.
    emptied: Condvar,
    lost: LostLines,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Number of lines added since the start.
    added: u64,
    /// Number of lines taken since the start.
    taken: u64,
    /// Number of lines done since the start: written, or lost.
    done: u64,
    /// Number of lines refused since the start, because the queue was full or closed.
    refused: u64,
    /// Whether all further lines are refused.
    closed: bool,
}

#[derive(Debug)]
struct Line {
    text: Vec<u8>,
    refused_before: u64,
    done: Option<oneshot::Sender<()>>,
}

/// A line taken from the queue.
#[derive(Debug)]
pub struct Taken {
    /// The line's bytes, including the line end.
    pub text: Vec<u8>,
    /// Number of lines that the queue had refused when this one was added.
    pub refused_before: u64,
}

/// Creates a queue.
#[must_use]
pub fn queue() -> (Lines, Outlet) {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        filled: Condvar::new(),
        emptied: Condvar::new(),
        lost: LostLines::default(),
    });
    (Lines(Arc::clone(&queue)), Outlet { queue, done: None })
}

impl Lines {
    /// Returns the counter of this queue's lost lines.
    #[must_use]
    pub fn lost(&self) -> LostLines {
        self.0.lost.clone()
    }

    /// Adds a line. If the queue is full or closed, counts the line as lost and returns `false`.
    pub fn push(&self, text: Vec<u8>) -> bool {
        self.add(None, |_| text)
    }

    /// Adds a line as [`Lines::push`] does; the receiver is notified when the line is done. `text` makes the line from
    /// the number of lines that were lost before it.
    pub(crate) fn push_awaited(&self, text: impl FnOnce(u64) -> Vec<u8>) -> Option<oneshot::Receiver<()>> {
        let (done, written) = oneshot::channel();
        self.add(Some(done), text).then_some(written)
    }

    /// Adds a line once there is room, and returns when it is done. Blocks the thread.
    pub fn push_blocking(&self, text: Vec<u8>) {
        let mut state = self.0.state.lock();
        while state.is_full() && !state.closed {
            self.0.emptied.wait(&mut state);
        }
        if state.closed {
            self.0.lost.add(1);
            return;
        }
        let own = self.0.append(&mut state, text, None);
        while state.done < own {
            self.0.emptied.wait(&mut state);
        }
    }

    /// Adds an empty line, even to a full queue; the receiver is notified when all lines before it are done. This wakes
    /// the writing thread, which has nothing to write for it.
    pub(crate) fn push_mark(&self) -> oneshot::Receiver<()> {
        let (done, reached) = oneshot::channel();
        let mut state = self.0.state.lock();
        if !state.closed {
            self.0.append(&mut state, Vec::new(), Some(done));
        }
        reached
    }

    /// Waits until all lines added so far are done, for `limit` at most, and returns whether they are. Blocks the
    /// thread.
    #[must_use]
    pub fn wait_until_done(&self, limit: Duration) -> bool {
        let waiting = Stopwatch::start();
        let mut state = self.0.state.lock();
        let last = state.added;
        while state.done < last {
            let left = limit.saturating_sub(waiting.elapsed());
            if left.is_zero() {
                return false;
            }
            self.0.emptied.wait_for(&mut state, left);
        }
        true
    }

    /// Returns the number of lines that have been added and are not done.
    pub(crate) fn waiting(&self) -> u64 {
        let state = self.0.state.lock();
        state.added - state.done
    }

    /// Closes the queue. The outlet ends after the remaining lines.
    pub(crate) fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.filled.notify_all();
        self.0.emptied.notify_all();
    }

    fn add(&self, done: Option<oneshot::Sender<()>>, text: impl FnOnce(u64) -> Vec<u8>) -> bool {
        let mut state = self.0.state.lock();
        if state.is_full() || state.closed {
            state.refused += 1;
            self.0.lost.add(1);
            return false;
        }
        // Made under the lock, so that no other line comes between a loss and the line that reports it.
        let text = text(self.0.lost.get());
        self.0.append(&mut state, text, done);
        true
    }
}

impl Queue {
    /// Adds a line and returns its number.
    fn append(&self, state: &mut State, text: Vec<u8>, done: Option<oneshot::Sender<()>>) -> u64 {
        state.bytes += text.len();
        state.lines.push_back(Line { text, refused_before: state.refused, done });
        state.added += 1;
        self.filled.notify_one();
        state.added
    }
}

impl State {
    fn is_full(&self) -> bool {
        self.lines.len() >= LINES_MAX || self.bytes >= BYTES_MAX
    }
}

impl Outlet {
    /// Waits for the next line; `None` once the queue is closed and empty.
    pub fn take(&mut self) -> Option<Taken> {
        self.tell_done();
        let mut state = self.queue.state.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.text.len();
                state.taken += 1;
                self.done = line.done;
                return Some(Taken { text: line.text, refused_before: line.refused_before });
            }
            if state.closed {
                return None;
            }
            self.queue.filled.wait(&mut state);
        }
    }

    /// Counts the line that was taken last as lost, because it could not be written.
    pub fn lose(&self) {
        self.queue.lost.add(1);
    }

    /// Returns the number of lines that the queue has refused, if it holds no line that would tell that number.
    #[must_use]
    pub fn refused_since_last(&self) -> Option<u64> {
        let state = self.queue.state.lock();
        state.lines.is_empty().then_some(state.refused)
    }

    /// Sleeps for a while, or until the queue is closed. Returns whether the queue is still open.
    pub(crate) fn rest(&self, time: Duration) -> bool {
        let mut state = self.queue.state.lock();
        self.queue.filled.wait_while_for(&mut state, |state| !state.closed, time);
        !state.closed
    }

    fn tell_done(&mut self) {
        if let Some(done) = self.done.take() {
            // The caller may be gone.
            let _ = done.send(());
        }
        let mut state = self.queue.state.lock();
        if state.done < state.taken {
            state.done = state.taken;
            self.queue.emptied.notify_all();
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.tell_done();
        let mut state = self.queue.state.lock();
        state.closed = true;
        self.queue.lost.add(state.lines.iter().filter(|line| !line.text.is_empty()).count() as u64);
        state.lines.clear();
        state.bytes = 0;
        state.done = state.added;
        self.queue.emptied.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_full_queue_refuses_lines_and_counts_them() {
        let (lines, mut outlet) = queue();
        for n in 0..LINES_MAX {
            assert!(lines.push(n.to_string().into()));
        }
        assert!(!lines.push("one too many".into()) && lines.push_awaited(|_| "another".into()).is_none());
        assert_eq!(lines.lost().get(), 2);
        assert_eq!((&*outlet.take().unwrap().text, outlet.refused_since_last()), (&b"0"[..], None));
        let mut before = 0;
        assert!(
            lines
                .push_awaited(|lost| {
                    before = lost;
                    "fits".into()
                })
                .is_some()
        );
        assert_eq!(before, 2);
        let last = std::iter::from_fn(|| outlet.take()).find(|line| line.text == b"fits").unwrap();
        assert_eq!((last.refused_before, outlet.refused_since_last()), (2, Some(2)));
    }

    #[test]
    fn a_queue_of_long_lines_is_full_sooner() {
        let (lines, mut outlet) = queue();
        assert!(lines.push(vec![b'a'; BYTES_MAX]));
        assert!(!lines.push("b".into()));
        outlet.take().unwrap();
        assert!(lines.push("b".into()));
    }

    #[tokio::test]
    async fn a_line_is_done_with_once_the_next_one_is_asked_for() {
        let (lines, mut outlet) = queue();
        let mut written = lines.push_awaited(|_| "a".into()).unwrap();
        assert!(lines.push("b".into()));
        assert_eq!(outlet.take().unwrap().text, b"a");
        assert!(written.try_recv().is_err() && !lines.wait_until_done(Duration::ZERO));
        assert_eq!(outlet.take().unwrap().text, b"b");
        written.await.unwrap();
        let mark = lines.push_mark();
        assert_eq!(outlet.take().unwrap().text, b"");
        assert!(!lines.wait_until_done(Duration::ZERO));
        lines.close();
        assert!(outlet.take().is_none());
        assert!(lines.wait_until_done(Duration::ZERO));
        mark.await.unwrap();
    }

    #[test]
    fn a_thread_that_may_block_waits_for_room_and_for_its_line() {
        let (lines, mut outlet) = queue();
        while lines.push("x".into()) {}
        let own = lines.clone();
        let waiting = thread::spawn(move || own.push_blocking("last".into()));
        let mut last = Vec::new();
        while last != b"last" {
            assert!(!waiting.is_finished());
            last = outlet.take().unwrap().text;
        }
        lines.close();
        assert!(outlet.take().is_none());
        waiting.join().unwrap();
        assert_eq!(lines.lost().get(), 1);
    }

    #[test]
    fn lines_of_an_outlet_that_is_gone_are_lost_and_waited_for_no_longer() {
        let (lines, mut outlet) = queue();
        let mut written = lines.push_awaited(|_| "a".into()).unwrap();
        assert!(lines.push("b".into()));
        outlet.take().unwrap();
        drop(outlet);
        written.try_recv().unwrap();
        assert!(lines.wait_until_done(LONG) && !lines.push("c".into()));
        lines.push_blocking("d".into());
        assert_eq!(lines.lost().get(), 3);
    }
}
