//! The reads of a batch.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Params, Row, params};

use super::{
    decode::{Decoder, Table, set_aside},
    keys::read_found,
    load::{read_one_job, recount},
    row::{bytes, column, select_job, select_job_and_payload},
    schedules,
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{Job, JobId, Participant, Position, StateName},
    store::{
        StoreError,
        sets::{
            Expiring, FeedEntry, FeedPage, FeedWant, Heads, HeadsWant, LinePage, LineWant, PurgeCounts, ReadResults,
            ReadSet, RequestKey, RequestOutcome, RequestRow, SetAside, SortKey, StoredRequest,
            SuspectsWant, WaitingLine,
        },
    },
};

/// Number of places of a lane that are read at a time when several lanes are merged.
const PLACES: usize = 64;

/// Reads of a batch.
pub(super) struct Fetch<'c> {
    pub(super) connection: &'c Connection,
    pub(super) decoder: &'c Decoder,
}

impl Fetch<'_> {
    pub(super) fn all(&self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        let mut found = ReadResults {
            set_aside: wants.set_aside.map(|now| self.set_aside(now)).transpose()?,
            ..ReadResults::default()
        };
        if !wants.schedules.is_empty() {
            found.schedules = schedules::fetch(self.connection, self.decoder, &wants.schedules)?;
        }
        let of_schedules: Vec<_> = found.schedules.values().flat_map(|info| info.jobs()).collect();
        for id in wants.jobs.iter().chain(&of_schedules) {
            self.find_job(*id, &mut found.jobs)?;
        }
        for key in &wants.requests {
            if let Some(request) = self.request(key)? {
                found.requests.insert(*key, request);
            }
        }
        for (id, lease) in &wants.reported {
            let row = self
                .sql("SELECT worker FROM attempt WHERE job = ?1 AND lease = ?2")?
                .query_row(params![id.raw(), lease.as_i64()], |row| row.get::<_, Option<String>>("worker"))
                .optional()?;
            // An attempt whose worker can't be read has no owner, so that a repeat of its report is refused.
            let owner = row.flatten().and_then(|owner| serde_json::from_str(&owner).ok());
            found.reported.extend(owner.map(|owner| (*lease, owner)));
        }
        for want in &wants.heads {
            found.heads.push(self.heads(want)?);
        }
        for want in &wants.lanes {
            found.lanes.insert((want.queue, want.kind, want.lane), self.lane(want)?);
        }
        for want in &wants.lines {
            found.lines.insert((want.queue, want.line), self.line(want)?);
        }
        for want in &wants.renewals {
            found.renewals.insert((want.queue, want.line), self.line(want)?);
        }
        for want in &wants.walks {
            found.walks.insert((want.queue, want.line), self.line(want)?);
        }
        if wants.expiring > 0 {
            found.expiring = self.expiring(wants.expiring)?;
        }
        for want in &wants.feed {
            found.feed.insert(want.keep, self.feed(want)?);
        }
        found.tombstones = self.tombstones(wants.tombstones)?;
        found.bare_requests = self.bare_requests(wants.bare_requests)?;
        found.held_keys = self.held_keys(wants.held_keys)?;
        self.spared(wants.dependencies.spared, &mut found)?;
        self.dependents(wants, &mut found)?;
        // After all other jobs, whose keys are read, too.
        self.keys(&wants.keys, &mut found)?;
        self.live_children(&mut found)?;
        Ok(found)
    }

    pub(super) fn sql(&self, sql: &str) -> Result<CachedStatement<'_>, StoreError> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    fn set_aside(&self, now: Timestamp) -> Result<SetAside, StoreError> {
        let mut jobs = Vec::new();
        for ((table, key), why) in self.decoder.take() {
            let spec = set_aside(self.connection, &self.decoder.names, (table, key), &why, now)?;
            if table == Table::Job {
                jobs.push((JobId::from_raw(key), spec));
            }
        }
        Ok(SetAside { jobs, tallies: recount(self.connection, self.decoder)? })
    }

    /// Reads a job that is not among those that were found so far.
    pub(super) fn find_job(&self, id: JobId, found: &mut HashMap<JobId, Arc<Job>>) -> Result<(), StoreError> {
        if let Entry::Vacant(place) = found.entry(id)
            && let Some(job) = self.job(id)?
        {
            place.insert(job);
        }
        Ok(())
    }

    /// Reads a job. Returns `None` for a row that can't be read, which is noted.
    fn job(&self, id: JobId) -> Result<Option<Arc<Job>>, StoreError> {
        match read_one_job(self.connection, self.decoder, id) {
            Err(StoreError::Unreadable { .. }) => Ok(None),
            read => Ok(read?.map(Arc::new)),
        }
    }

    fn request(&self, key: &RequestKey) -> Result<Option<StoredRequest>, StoreError> {
        let row = self
            .sql("SELECT digest, answer, first, count, live, value, found FROM request WHERE key = ?1")?
            .query_row([&key[..]], |row| {
                // No request has this digest. A repeat of a request whose row can't be read is therefore refused as a
                // different request, and creates nothing.
                Ok(read_request(row).unwrap_or_else(|error| {
                    tracing::error!(%error, "the row of a request id can't be read");
                    RequestRow { digest: [0; 16], answer: RequestOutcome::Done { queue: 0 }, found: None }
                }))
            })
            .optional()?;
        let Some(row) = row else { return Ok(None) };
        let job = match row.job() {
            Some(id) => self.job(id)?,
            None => None,
        };
        Ok(Some(StoredRequest { row, job }))
    }

    /// Decodes all jobs of a statement, and counts its rows.
    fn jobs(&self, sql: &str, parameters: impl Params) -> Result<(Vec<Arc<Job>>, usize), StoreError> {
        let mut statement = self.sql(sql)?;
        let mut rows = statement.query(parameters)?;
        let (mut jobs, mut seen) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            seen += 1;
            jobs.extend(self.decoder.job(row).map(Arc::new));
        }
        Ok((jobs, seen))
    }

    fn heads(&self, want: &HeadsWant) -> Result<Heads, StoreError> {
        match (want.last_turn.filter(|_| want.suspects != SuspectsWant::Alone), &want.kinds[..]) {
            (Some(last), _) => return self.heads_in_turns(want, last),
            (None, [kind]) => return self.lane_heads(want, *kind),
            (None, _) => {}
        }
        let places = self.merged_places(want)?;
        let is_cut = places.len() == want.limit;
        let mut jobs = Vec::with_capacity(places.len());
        for place in places {
            let mut statement = self.sql(select_job_and_payload!("WHERE id = ?1"))?;
            let mut rows = statement.query([place.id.raw()])?;
            if let Some(row) = rows.next()?
                && let Some(job) = self.decoder.job(row)
            {
                jobs.push((Arc::new(job), bytes(row.get_ref(column::PAYLOAD)?)?));
            }
        }
        Ok(Heads { jobs, is_cut })
    }

    fn lane_heads(&self, want: &HeadsWant, kind: u32) -> Result<Heads, StoreError> {
        let HeadsWant { queue, limit, .. } = *want;
        let mut statement = self.sql(match want.suspects {
            SuspectsWant::Included => select_job_and_payload!(
                "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = 0 ORDER BY rank, detail LIMIT ?3"
            ),
            SuspectsWant::LeftOut => select_job_and_payload!(
                "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = 0 AND id NOT IN (SELECT job FROM suspect) \
                 ORDER BY rank, detail LIMIT ?3"
            ),
            // The plus signs make SQLite begin with the suspects, which are few, and not with the lane.
            SuspectsWant::Alone => select_job_and_payload!(
                "WHERE id IN (SELECT job FROM suspect) AND +state = 3 AND +queue = ?1 AND +kind = ?2 \
                 ORDER BY rank, detail LIMIT ?3"
            ),
        })?;
        let mut rows = statement.query(params![queue, kind, limit as i64])?;
        let (mut jobs, mut seen) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            seen += 1;
            if let Some(job) = self.decoder.job(row) {
                jobs.push((Arc::new(job), bytes(row.get_ref(column::PAYLOAD)?)?));
            }
        }
        Ok(Heads { jobs, is_cut: seen == limit })
    }

    /// Returns the first places of several lanes, merged.
    fn merged_places(&self, want: &HeadsWant) -> Result<Vec<SortKey>, StoreError> {
        let mut lanes: Vec<Lane> = want.kinds.iter().map(|kind| Lane::new(*kind)).collect();
        let mut places = Vec::new();
        while places.len() < want.limit {
            let mut best: Option<(SortKey, usize)> = None;
            for (index, lane) in lanes.iter_mut().enumerate() {
                if let Some(head) = self.head(want, lane, want.limit - places.len())?
                    && best.is_none_or(|(place, _)| head < place)
                {
                    best = Some((head, index));
                }
            }
            let Some((place, index)) = best else { break };
            places.push(place);
            if let Some(lane) = lanes.get_mut(index) {
                lane.heads.pop_front();
            }
        }
        Ok(places)
    }

    fn head(&self, want: &HeadsWant, lane: &mut Lane, wanted: usize) -> Result<Option<SortKey>, StoreError> {
        if lane.heads.is_empty() && !lane.is_exhausted {
            let limit = wanted.clamp(1, PLACES);
            let mut statement = self.sql(match want.suspects {
                SuspectsWant::Included => {
                    "SELECT participant, rank, detail, id FROM job WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = 0 \
                     AND (rank, detail, id) > (?3, ?4, ?5) ORDER BY rank, detail, id LIMIT ?6"
                }
                SuspectsWant::LeftOut => {
                    "SELECT participant, rank, detail, id FROM job WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = 0 \
                     AND (rank, detail, id) > (?3, ?4, ?5) AND id NOT IN (SELECT job FROM suspect) \
                     ORDER BY rank, detail, id LIMIT ?6"
                }
                SuspectsWant::Alone => {
                    "SELECT participant, rank, detail, id FROM job WHERE id IN (SELECT job FROM suspect) AND +state = 3 \
                     AND +queue = ?1 AND +kind = ?2 AND (rank, detail, id) > (?3, ?4, ?5) ORDER BY rank, detail, id LIMIT ?6"
                }
            })?;
            let (rank, order, id) = lane.last;
            let mut rows = statement.query(params![want.queue, lane.kind, rank, order, id, limit as i64])?;
            let mut seen = 0;
            while let Some(row) = rows.next()? {
                seen += 1;
                let place = place(row)?;
                // Released jobs may have the same order.
                lane.last = (place.rank, place.order, place.id.raw());
                lane.heads.push_back(place);
            }
            lane.is_exhausted = seen < limit;
        }
        Ok(lane.heads.front().copied())
    }

    fn line(&self, want: &LineWant) -> Result<LinePage, StoreError> {
        let LineWant { queue, line, after, limit } = *want;
        let after = after.map_or((i64::MIN, i64::MIN, i64::MIN, i64::MIN), |place| {
            (place.participant.0, i64::from(place.rank), place.order, place.id.raw())
        });
        let mut page = LinePage { limit, ..LinePage::default() };
        let (sql, kind) = match line {
            // The first condition is that of the index.
            WaitingLine::Scheduled | WaitingLine::BackingOff | WaitingLine::Blocked => (
                select_job!(
                    "WHERE (state = 1 OR state = 2 OR state = 5) AND state = ?2 AND queue = ?1 \
                     AND (detail, id) > (?5, ?6) AND (?3, ?4) = (?3, ?4) ORDER BY detail, id LIMIT ?7"
                ),
                match line {
                    WaitingLine::Scheduled => StateName::Scheduled as u32,
                    WaitingLine::Blocked => StateName::Blocked as u32,
                    WaitingLine::BackingOff | WaitingLine::Ready(_) => StateName::BackingOff as u32,
                },
            ),
            WaitingLine::Ready(kind) => (
                select_job!(
                    "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND (participant, rank, detail, id) > (?3, ?4, ?5, ?6) \
                     ORDER BY participant, rank, detail, id LIMIT ?7"
                ),
                kind,
            ),
        };
        let mut statement = self.sql(sql)?;
        let (participant, rank, order, id) = after;
        let mut rows = statement.query(params![queue, kind, participant, rank, order, id, limit as i64])?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            let place = place(row)?;
            page.last = Some(match line {
                WaitingLine::Ready(_) => place,
                WaitingLine::Scheduled | WaitingLine::BackingOff | WaitingLine::Blocked => {
                    SortKey { participant: Participant::NONE, rank: 0, ..place }
                }
            });
            page.jobs.extend(self.decoder.job(row).map(Arc::new));
        }
        page.is_cut = seen == limit;
        Ok(page)
    }

    fn expiring(&self, limit: usize) -> Result<Expiring, StoreError> {
        let (jobs, seen) = self.jobs(
            select_job!(
                "WHERE until IS NOT NULL ORDER BY until, id LIMIT ?1"
            ),
            [limit as i64],
        )?;
        Ok(Expiring { jobs, is_cut: seen == limit })
    }

    fn feed(&self, want: &FeedWant) -> Result<FeedPage, StoreError> {
        let mut statement = self.sql(select_job!("WHERE position > ?1 ORDER BY position LIMIT ?2"))?;
        let mut rows = statement.query(params![want.after.0, want.limit as i64])?;
        let mut page = FeedPage::default();
        while let Some(row) = rows.next()? {
            let is_done = StateName::from_number(row.get(column::STATE)?).is_some_and(StateName::is_done);
            page.places.push(FeedEntry {
                position: Position(row.get(column::POSITION)?),
                updated: Timestamp::from_micros(row.get(column::UPDATED)?),
                ended: is_done.then(|| self.decoder.job(row)).flatten().map(Arc::new),
            });
        }
        page.is_cut = page.places.len() == want.limit;
        Ok(page)
    }

    fn tombstones(&self, limit: usize) -> Result<Vec<(Position, StoreTime)>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut statement = self.sql("SELECT position, deleted FROM tombstone ORDER BY position LIMIT ?1")?;
        let rows = statement.query_map([limit as i64], |row| {
            Ok((Position(row.get("position")?), StoreTime::from_micros(row.get("deleted")?)))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn bare_requests(&self, limit: usize) -> Result<Vec<(StoreTime, RequestKey)>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut statement =
            self.sql("SELECT gone, key FROM request WHERE gone IS NOT NULL ORDER BY gone LIMIT ?1")?;
        let rows = statement.query_map([limit as i64], |row| {
            Ok((StoreTime::from_micros(row.get("gone")?), row.get("key")?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Reads a place. A row without its time or order comes first, can't be decoded, and is set aside.
pub(super) fn place(row: &Row<'_>) -> Result<SortKey, rusqlite::Error> {
    let order: Option<i64> = row.get("detail")?;
    Ok(SortKey {
        participant: Participant(row.get("participant")?),
        rank: row.get("rank").unwrap_or(i8::MAX),
        order: order.unwrap_or(i64::MIN),
        id: JobId::from_raw(row.get("id")?),
    })
}

/// A lane that is read from its head.
struct Lane {
    kind: u32,
    heads: VecDeque<SortKey>,
    last: (i8, i64, i64),
    is_exhausted: bool,
}

impl Lane {
    fn new(kind: u32) -> Self {
        Lane { kind, heads: VecDeque::new(), last: (i8::MIN, i64::MIN, i64::MIN), is_exhausted: false }
    }
}

/// Numbers of request outcomes in the column `answer`.
pub(super) mod answer {
    pub(in crate::store::sqlite) const JOBS: u8 = 0;
    pub(in crate::store::sqlite) const JOB: u8 = 1;
    pub(in crate::store::sqlite) const DONE: u8 = 2;
    pub(in crate::store::sqlite) const PURGE: u8 = 3;
}

fn read_request(row: &Row<'_>) -> Result<RequestRow, StoreError> {
    let id = || -> Result<JobId, StoreError> { Ok(JobId::from_raw(row.get("first")?)) };
    let answer = match row.get::<_, u8>("answer")? {
        answer::JOBS => {
            RequestOutcome::Jobs { first: id()?, count: row.get("count")?, live: row.get("live")? }
        }
        answer::JOB => {
            let state = StateName::from_number(row.get("count")?);
            let unknown = || StoreError::Corrupt("a request left a job in an unknown state".to_owned());
            RequestOutcome::Job {
                id: id()?,
                state: state.ok_or_else(unknown)?,
                revision: row.get("value")?,
                queue: row.get("live")?,
            }
        }
        answer::DONE => RequestOutcome::Done { queue: row.get("live")? },
        answer::PURGE => {
            let (deleted, skipped): (Option<u64>, u64) = (row.get("value")?, row.get("count")?);
            let done = deleted.map(|deleted| PurgeCounts { deleted, skipped });
            RequestOutcome::Purge { queue: row.get("first")?, done }
        }
        other => return Err(StoreError::Corrupt(format!("a request has the unknown answer {other}"))),
    };
    let found = row.get_ref("found")?.as_blob_or_null().map_err(rusqlite::Error::from)?;
    Ok(RequestRow { digest: row.get("digest")?, answer, found: found.map(read_found) })
}
