//! A client that reads a watch, event by event.

use std::collections::VecDeque;

use jobmill::proto::v1::{self, JobState, watch_event::Event};
use tonic::{Status, Streaming};

use super::soon;

/// A client that reads a watch, event by event.
pub(crate) struct Watcher {
    stream: Streaming<v1::WatchStatusResponse>,
    read: VecDeque<Event>,
    /// The resume token of the last message whose events have all been taken.
    pub(crate) token: String,
    next_token: String,
}

impl Watcher {
    pub(crate) fn new(stream: Streaming<v1::WatchStatusResponse>) -> Self {
        Watcher { stream, read: VecDeque::new(), token: String::new(), next_token: String::new() }
    }

    /// Returns the next message unchanged.
    pub(crate) async fn message(&mut self) -> Result<Option<v1::WatchStatusResponse>, Status> {
        soon(self.stream.message()).await
    }

    /// Returns the next event that is not a bookmark; `None` at the end.
    pub(crate) async fn event(&mut self) -> Result<Option<Event>, Status> {
        // Bookmarks recur and are skipped.
        soon(self.news()).await
    }

    async fn news(&mut self) -> Result<Option<Event>, Status> {
        loop {
            if let Some(event) = self.read.pop_front() {
                if self.read.is_empty() {
                    self.token.clone_from(&self.next_token);
                }
                if !matches!(event, Event::Bookmark(_)) {
                    return Ok(Some(event));
                }
                continue;
            }
            let Some(message) = self.message().await? else { return Ok(None) };
            self.read.extend(message.events.into_iter().map(|event| event.event.expect("an event")));
            self.next_token = message.resume_token;
        }
    }

    pub(crate) async fn next(&mut self) -> Event {
        self.event().await.expect("no error").expect("an event")
    }

    /// Returns the next event as text, for comparison with the rows of a test.
    pub(crate) async fn line(&mut self) -> String {
        describe(&self.next().await)
    }

    /// Returns the next events as text.
    pub(crate) async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::with_capacity(count);
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    /// Takes events up to *synced*; returns the jobs that they show.
    pub(crate) async fn synced(&mut self) -> Vec<v1::Job> {
        let mut jobs = Vec::new();
        loop {
            match self.next().await {
                Event::Snapshot(job) => jobs.push(*job),
                Event::Synced(_) => return jobs,
                event => panic!("{} came before synced", describe(&event)),
            }
        }
    }

    /// Takes events up to the first one that shows a job in this state.
    pub(crate) async fn until(&mut self, state: JobState) -> v1::Job {
        loop {
            if let Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }) =
                self.next().await
                && job.state() == state
            {
                return *job;
            }
        }
    }

    /// Returns all events up to the end of the stream, which must be OK.
    pub(crate) async fn rest(&mut self) -> Result<Vec<Event>, Status> {
        let mut events = Vec::new();
        while let Some(event) = self.event().await? {
            events.push(event);
        }
        Ok(events)
    }
}

/// Renders an event as text.
pub(crate) fn describe(event: &Event) -> String {
    let name = |state: JobState| state.as_str_name().trim_start_matches("JOB_STATE_").to_owned();
    match event {
        Event::Snapshot(job) => format!("snapshot {} {}", job.revision, name(job.state())),
        Event::Synced(_) => "synced".to_owned(),
        Event::Updated(updated) => {
            let job = updated.job.as_ref().expect("a job");
            let merged = updated.merged.filter(|merged| *merged > 0);
            let merged = merged.map(|merged| format!(" merged {merged}")).unwrap_or_default();
            format!("updated {} {}{merged}", job.revision, name(job.state()))
        }
        Event::Left(left) => format!("left {}", name(left.state())),
        Event::Deleted(_) => "deleted".to_owned(),
        Event::NotFound(_) => "not found".to_owned(),
        Event::Bookmark(_) => "bookmark".to_owned(),
        Event::Closing(_) => "closing".to_owned(),
        Event::Resync(_) => "resync".to_owned(),
        Event::Output(line) => format!("output {}", line.text),
    }
}
