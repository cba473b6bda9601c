//! Watches of schedules as response streams. A stream is polled: what a slow client does not read is not prepared, and
//! it then gets the latest state of what has changed.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
};

use tokio_stream::Stream;
use tonic::Status;

use super::{caller::Caller, core::Core, show_schedule, validate::Validator};
use crate::{engine::ChangedSchedules, proto::v1, settings::ScheduleInfo, watch::WatchError};

/// Limit of the names of a watch.
pub(super) const NAMES_MAX: usize = 100;
/// Number of schedules that are read at a time.
const PAGE: usize = 20;

/// The responses of a watch.
pub(super) type Responses = Pin<Box<dyn Stream<Item = Result<v1::WatchSchedulesResponse, Status>> + Send>>;

/// Validates the names of a watch.
pub(super) fn names(mut validator: Validator, names: Vec<String>) -> Result<BTreeSet<Arc<str>>, Status> {
    if names.len() > NAMES_MAX {
        let message = format!("has {} entries; at most {NAMES_MAX} are allowed: leave them out", names.len());
        validator.fault("names", message);
    }
    for (index, name) in names.iter().take(NAMES_MAX).enumerate() {
        validator.schedule_name(&format!("names[{index}]"), name);
    }
    validator.finish()?;
    Ok(names.into_iter().map(Arc::from).collect())
}

/// A watch of schedules.
struct Watch {
    core: Core,
    caller: Arc<Caller>,
    /// The names that are watched; empty: all.
    names: BTreeSet<Arc<str>>,
    /// The number of changes that are known of.
    number: u64,
    told: tokio::sync::watch::Receiver<u64>,
    /// Name at which the snapshot of all schedules has come, until it is complete.
    snapshot: Option<Option<String>>,
    is_synced: bool,
    /// Schedules that the client was told of, so that it is told of their ends.
    known: BTreeSet<Arc<str>>,
    /// Schedules to read and to send.
    changed: VecDeque<Arc<str>>,
    ready: VecDeque<v1::WatchSchedulesResponse>,
    is_over: bool,
}

/// Returns the stream of a watch, which ends when its caller's token is no longer valid.
pub(super) fn start(core: &Core, caller: Arc<Caller>, names: BTreeSet<Arc<str>>) -> Responses {
    let feed = &core.shard.schedule_feed;
    // The present number first: what changes from here on is told of.
    let told = feed.number();
    let number = *told.borrow();
    let watch = Watch {
        core: core.clone(),
        caller,
        snapshot: names.is_empty().then_some(None),
        changed: names.iter().cloned().collect(),
        names,
        number,
        told,
        is_synced: false,
        known: BTreeSet::new(),
        ready: VecDeque::new(),
        is_over: false,
    };
    Box::pin(futures_util::stream::unfold(watch, |mut watch| async move {
        if watch.is_over {
            return None;
        }
        let response = watch.next().await;
        watch.is_over = response.is_err();
        Some((response, watch))
    }))
}

fn event(event: v1::watch_schedules_response::Event) -> v1::WatchSchedulesResponse {
    v1::WatchSchedulesResponse { event: Some(event) }
}

impl Watch {
    async fn next(&mut self) -> Result<v1::WatchSchedulesResponse, Status> {
        use v1::watch_schedules_response::Event;

        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(response);
            }
            if let Err(status) = self.caller.recheck() {
                self.caller.written().await;
                return Err(status);
            }
            if !self.changed.is_empty() {
                self.read_changed().await?;
            } else if let Some(after) = self.snapshot.take() {
                self.read_page(after).await?;
            } else if !self.is_synced {
                self.is_synced = true;
                return Ok(event(Event::Synced(v1::SchedulesSynced {})));
            } else {
                self.wait().await?;
            }
        }
    }

    /// Waits for changes.
    async fn wait(&mut self) -> Result<(), Status> {
        let (changed, number) = self.core.shard.schedule_feed.since(self.number);
        if number == self.number {
            tokio::select! {
                _ = self.told.changed() => {}
                () = self.core.draining.cancelled() => return Err(WatchError::Closing.into()),
            }
            return Ok(());
        }
        self.number = number;
        match changed {
            ChangedSchedules::Named(names) => {
                let watched = |name: &Arc<str>| self.names.is_empty() || self.names.contains(name);
                self.changed.extend(names.into_iter().filter(watched));
            }
            ChangedSchedules::Any if self.names.is_empty() => {
                self.changed.extend(self.known.iter().cloned());
                self.snapshot = Some(None);
            }
            ChangedSchedules::Any => self.changed.extend(self.names.iter().cloned()),
        }
        Ok(())
    }

    /// Reads the next page of all schedules.
    async fn read_page(&mut self, after: Option<String>) -> Result<(), Status> {
        let read = self.core.shard.reads.read(move |reader| reader.schedules(after.as_deref(), PAGE)).await?;
        if read.len() == PAGE {
            self.snapshot = Some(read.last().map(|info| info.name.to_string()));
        }
        self.show(&read).await
    }

    /// Reads the next schedules that have changed.
    async fn read_changed(&mut self) -> Result<(), Status> {
        use v1::watch_schedules_response::Event;

        let names: Vec<Arc<str>> = self.changed.drain(..self.changed.len().min(PAGE)).collect();
        let wanted = names.clone();
        let found = self.core.shard.reads.read(move |reader| {
            let found = wanted.iter().map(|name| reader.schedule(name));
            let found: Result<Vec<_>, _> = found.collect();
            Ok(found?.into_iter().flatten().map(|info| info.without_payload()).collect::<Vec<_>>())
        });
        let found = found.await?;
        let is_shown = |name: &Arc<str>| {
            found.iter().any(|info| info.name == *name && self.caller.sees_queue(info.queue()))
        };
        for name in names.iter().filter(|name| !is_shown(name)) {
            // One that the caller may not read is hidden from it.
            if self.known.remove(name) || self.names.contains(name) {
                self.ready.push_back(event(Event::Deleted(name.to_string())));
            }
        }
        self.show(&found).await
    }

    async fn show(&mut self, infos: &[ScheduleInfo]) -> Result<(), Status> {
        use v1::watch_schedules_response::Event;

        let visible: Vec<_> = infos.iter().filter(|info| self.caller.sees_queue(info.queue())).collect();
        let states = self.core.states_of(&visible).await?;
        for info in visible {
            self.known.insert(Arc::clone(&info.name));
            let shown = show_schedule::schedule(info, info.run.next.as_slice(), &states);
            self.ready.push_back(event(Event::Schedule(shown)));
        }
        Ok(())
    }
}
