//! The ready jobs of fair queues that run first.

use std::{cell::RefCell, collections::HashMap, ops::Bound, sync::Arc};

use bytes::Bytes;
use rusqlite::{CachedStatement, OptionalExtension, Row, params};

use super::{
    fetch::{Fetch, place},
    row::{bytes, column, select_job_and_payload},
};
use crate::{
    job::{Job, JobId, Participant},
    store::{
        StoreError,
        sets::{Heads, HeadsWant, SortKey, SuspectsWant},
        turns::{Lane, cut_in_turns, first_in_turns},
    },
};

/// Jobs that were read, each with its payload where that is small.
type ReadJobs = HashMap<JobId, (Arc<Job>, Option<Bytes>)>;

/// A lane of a fair queue, with the jobs that were read of it.
struct FairLane<'f> {
    fetch: &'f Fetch<'f>,
    want: &'f HeadsWant,
    kind: u32,
    /// Finds the first job of the next participant. Looked up once, because each look-up hashes the statement's text.
    first: RefCell<CachedStatement<'f>>,
    jobs: &'f RefCell<ReadJobs>,
}

impl Fetch<'_> {
    /// Reads the ready jobs of a fair queue that run first. `last` had the turn before.
    pub(super) fn heads_in_turns(&self, want: &HeadsWant, last: Participant) -> Result<Heads, StoreError> {
        let (mut places, jobs) = (Vec::new(), RefCell::<ReadJobs>::default());
        for kind in &want.kinds {
            let first = RefCell::new(self.sql(first_of_next(want.suspects))?);
            let lane = FairLane { fetch: self, want, kind: *kind, first, jobs: &jobs };
            places.extend(first_in_turns(&lane, last, want.limit)?);
        }
        let is_cut = places.len() >= want.limit;
        let mut jobs = jobs.into_inner();
        let places = cut_in_turns(places, last, want.limit);
        Ok(Heads { jobs: places.iter().filter_map(|place| jobs.remove(&place.id)).collect(), is_cut })
    }
}

/// Returns the statement that finds the first job of the next participant.
fn first_of_next(suspects: SuspectsWant) -> &'static str {
    match suspects {
        SuspectsWant::LeftOut => select_job_and_payload!(
            "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant >= ?3 \
             AND id NOT IN (SELECT job FROM suspect) ORDER BY participant, rank, detail LIMIT 1"
        ),
        SuspectsWant::Included | SuspectsWant::Alone => select_job_and_payload!(
            "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant >= ?3 \
             ORDER BY participant, rank, detail LIMIT 1"
        ),
    }
}

impl FairLane<'_> {
    /// Reads a row. One that can't be read has a place, so that those behind it are found.
    fn take(&self, row: &Row<'_>) -> Result<SortKey, StoreError> {
        let place = place(row)?;
        if let Some(job) = self.fetch.decoder.job(row) {
            let payload = bytes(row.get_ref(column::PAYLOAD)?)?;
            self.jobs.borrow_mut().insert(place.id, (Arc::new(job), payload));
        }
        Ok(place)
    }
}

impl Lane for FairLane<'_> {
    fn first_of_next(&self, after: Bound<Participant>) -> Result<Option<SortKey>, StoreError> {
        let from = match after {
            Bound::Excluded(Participant(i64::MAX)) => return Ok(None),
            Bound::Excluded(Participant(participant)) => participant + 1,
            Bound::Included(Participant(participant)) => participant,
            // Lanes are no participants.
            Bound::Unbounded => 0,
        };
        let parameters = params![self.want.queue, self.kind, from];
        self.first.borrow_mut().query_row(parameters, |row| Ok(self.take(row))).optional()?.transpose()
    }

    fn next_of(&self, after: SortKey, limit: usize) -> Result<Vec<SortKey>, StoreError> {
        let mut next = self.fetch.sql(match self.want.suspects {
            SuspectsWant::LeftOut => select_job_and_payload!(
                "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = ?3 AND (rank, detail, id) > (?4, ?5, ?6) \
                 AND id NOT IN (SELECT job FROM suspect) ORDER BY rank, detail, id LIMIT ?7"
            ),
            SuspectsWant::Included | SuspectsWant::Alone => select_job_and_payload!(
                "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = ?3 AND (rank, detail, id) > (?4, ?5, ?6) \
                 ORDER BY rank, detail, id LIMIT ?7"
            ),
        })?;
        let SortKey { participant, rank, order, id } = after;
        let (queue, kind) = (self.want.queue, self.kind);
        let mut rows = next.query(params![queue, kind, participant.0, rank, order, id.raw(), limit as i64])?;
        let mut places = Vec::new();
        while let Some(row) = rows.next()? {
            places.push(self.take(row)?);
        }
        Ok(places)
    }
}
