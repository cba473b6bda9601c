//! Many callers that wait for room and leave at once, each of them between two that stay.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use jobmill::proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        latencies::now,
        report::number,
        session::Bench,
        streams::Items,
        wire::{LeanResults, Method, Wire, job},
    },
    aside::{ASIDE, Aside},
    burden::Burden,
};

/// Items of each caller that wait for room.
const ITEMS: usize = 80;
/// Streams of a connection.
const CALLERS_PER_CONNECTION: usize = 250;
/// Streams that are opened at once.
const OPENED_AT_ONCE: usize = 64;
/// Time limit of a caller's wait for room: longer than all rounds together should take.
const MAX_WAIT_SECONDS: i64 = 600;

/// A SubmitStream whose items wait for room.
struct Caller {
    wire: Wire,
    /// Waits for room until dropped.
    waiting: AbortOnDropHandle<anyhow::Result<()>>,
}

impl Caller {
    /// Sends items into a full queue.
    async fn join(mut wire: Wire, items: Bytes) -> anyhow::Result<Self> {
        let (messages, bodies) = mpsc::channel(1);
        let mut results =
            wire.stream::<LeanResults>(Method::SubmitStream, ReceiverStream::new(bodies)).await?;
        let granted = results.message().await?.context("a stream without credits")?.credits;
        ensure!(granted as usize >= ITEMS, "a stream may send {granted} items at first");
        messages.send(items).await?;
        let waiting = AbortOnDropHandle::new(tokio::spawn(async move {
            let _open = messages;
            match results.message().await? {
                Some(_) => bail!("an item was answered in a queue without room"),
                None => bail!("a stream ended that waited for room"),
            }
        }));
        Ok(Caller { wire, waiting })
    }
}

/// Twice as many callers as leave, in the order of their arrival.
pub(super) struct LeavingCallers {
    aside: Aside,
    callers: Vec<Caller>,
    /// Connections with capacity for one more caller.
    places: Vec<Wire>,
    leaving: usize,
    items: Bytes,
}

impl LeavingCallers {
    pub(super) async fn new(bench: &Bench) -> anyhow::Result<Self> {
        let leaving = bench.sizes.burdens.leaving;
        let count = 2 * leaving;
        let settings = v1::QueueSettings {
            max_jobs: Some(1),
            consumers: Some(0),
            max_wait: Some(prost_types::Duration { seconds: MAX_WAIT_SECONDS, nanos: 0 }),
            max_waiters: Some(i32::try_from(count)?),
            ..v1::QueueSettings::default()
        };
        let aside = Aside::start(&bench.place, settings).await?;
        aside.fill(job(ASIDE, 0), 1).await?;
        let wires = Wire::connect_many(&aside.subject.uri, count.div_ceil(CALLERS_PER_CONNECTION)).await?;
        let places = wires.into_iter().cycle().take(count).collect();
        let items = Items::new(ASIDE, 0).message(ITEMS);
        Ok(LeavingCallers { aside, callers: Vec::with_capacity(count), places, leaving, items })
    }

    /// Fails if a stream has ended by itself.
    fn all_wait(&self) -> anyhow::Result<()> {
        let ended = self.callers.iter().filter(|caller| caller.waiting.is_finished()).count();
        ensure!(ended == 0, "{ended} streams ended that waited for room");
        Ok(())
    }
}

impl Burden for LeavingCallers {
    fn name(&self) -> String {
        format!("{} callers leave", number(self.leaving as f64))
    }

    fn aside(&mut self) -> &mut Aside {
        &mut self.aside
    }

    async fn prepare(&mut self, _bench: &Bench, _quiet: Duration) -> anyhow::Result<()> {
        let joining = self.places.drain(..).map(|wire| Caller::join(wire, self.items.clone()));
        let joined: Vec<_> = stream::iter(joining).buffered(OPENED_AT_ONCE).try_collect().await?;
        self.callers.extend(joined);
        self.aside.until_waiters(self.callers.len() as u64).await?;
        // Streams hand their items to the server one by one, in turns with other calls: after as many calls as a stream
        // has items, its last item waits, too.
        for _ in 0..ITEMS {
            self.aside.submit().await?;
        }
        self.all_wait()
    }

    async fn happen(&mut self) -> anyhow::Result<Range<Instant>> {
        self.all_wait()?;
        let (staying, leaving): (Vec<_>, Vec<_>) =
            self.callers.drain(..).enumerate().partition(|(place, _)| place % 2 == 0);
        self.callers = staying.into_iter().map(|(_, caller)| caller).collect();
        let begin = now();
        self.places = leaving.into_iter().map(|(_, Caller { wire, .. })| wire).collect();
        self.aside.until_waiters(self.callers.len() as u64).await?;
        // The streams have ended; the next batch drops their items. The first call may be part of a batch that has
        // begun before, the second one can't be.
        self.aside.submit().await?;
        self.aside.submit().await?;
        Ok(begin..now())
    }

    fn into_aside(self) -> Aside {
        self.aside
    }
}
