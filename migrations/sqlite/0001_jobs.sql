-- Queues and kinds are referred to by small numbers, so that rows stay narrow.
CREATE TABLE queue (
    number               INTEGER PRIMARY KEY,
    name                 TEXT    NOT NULL UNIQUE,
    max_jobs             INTEGER NOT NULL,
    max_bytes            INTEGER NOT NULL,
    consumers            INTEGER NOT NULL,
    wait_when_full       INTEGER NOT NULL,
    max_wait_us          INTEGER NOT NULL,
    max_waiters          INTEGER NOT NULL,
    accept_unknown_kinds INTEGER NOT NULL,
    fair_by              TEXT,    -- the label whose values take turns
    keep_succeeded_us    INTEGER, -- retention of ended jobs: -1 for ever, absent as the server's
    keep_failed_us       INTEGER,
    keep_cancelled_us    INTEGER,
    keep_expired_us      INTEGER,
    paused               INTEGER NOT NULL,
    revision             INTEGER NOT NULL,
    declared             INTEGER NOT NULL, -- 1: the configuration declares it; 2: it used to declare it
    deleted              INTEGER NOT NULL
) STRICT;

CREATE TABLE kind (
    number INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL UNIQUE,
    served INTEGER                  -- last time, in counters.retention, at which a worker or a job of the kind was known
) STRICT;

-- Remote workers: one process for each subject and instance.
CREATE TABLE worker (
    number       INTEGER PRIMARY KEY,
    subject      TEXT    NOT NULL,
    instance     TEXT    NOT NULL,
    process      TEXT    NOT NULL,
    predecessors TEXT    NOT NULL, -- JSON: earlier processes of the instance, which may not come back
    starts       INTEGER NOT NULL  -- starts of the server since the worker's last hello
) STRICT;

-- Jobs: the hot rows. Instants are wall-clock times in microseconds since 1970. Absent texts mean the default.
CREATE TABLE job (
    id           INTEGER PRIMARY KEY,
    queue        INTEGER NOT NULL,
    kind         INTEGER NOT NULL,
    state        INTEGER NOT NULL, -- number in the protocol's JobState
    rank         INTEGER NOT NULL, -- the negated priority
    detail       INTEGER,          -- SCHEDULED, BLOCKED: earliest start; BACKING_OFF: due, in the time of
                                   -- counters.backoffs; QUEUED: order; RUNNING, CANCELLING: lease
    revision     INTEGER NOT NULL,
    position     INTEGER NOT NULL, -- in the feed, of the latest change
    attempt      INTEGER NOT NULL, -- number of claimed attempts
    max_attempts INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    timeout_us   INTEGER NOT NULL,
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL,
    started      INTEGER,
    ended        INTEGER,
    retry        TEXT,             -- JSON
    extras       TEXT,             -- JSON: labels, headers, payload type, request id, trace context, original input
    progress     TEXT,             -- JSON
    failure      TEXT,             -- JSON
    expires      INTEGER,          -- the job expires if no attempt has started by then
    result       TEXT,             -- JSON: size, media type, metadata
    worker       INTEGER,          -- the remote worker that runs the attempt
    reported     TEXT,             -- JSON: lease, number and owner of the latest attempt that its worker has ended by a report
    rare         TEXT,             -- JSON: counts that differ from the plain number of attempts
    participant  INTEGER NOT NULL, -- QUEUED: negative in a lane of jobs that wait for limits; otherwise the participant in
                                   -- the turns of a fair queue, or 0
    until        INTEGER,          -- time at which the job ends by itself, if it still waits then
    payload      BLOB              -- absent for a large payload, which is in the table payload
) STRICT;

-- Ready jobs, in the order in which they run: that of each lane, and in a fair queue of each participant.
CREATE INDEX job_ready ON job (queue, kind, participant, rank, detail) WHERE state = 3;
-- Jobs that wait for a time or for another job, by queue. SQLite builds a table for each evaluation of a longer IN list.
CREATE INDEX job_due ON job (state, queue, detail) WHERE state = 1 OR state = 2 OR state = 5;
-- Waiting jobs that end by themselves.
CREATE INDEX job_until ON job (until) WHERE until IS NOT NULL;
-- Running jobs.
CREATE INDEX job_leased ON job (id) WHERE state IN (4, 6);
-- Failed jobs: the dead letters.
CREATE INDEX job_failed ON job (id) WHERE state = 8;
-- The change feed, which also has the ended jobs in the order of their ends.
CREATE INDEX job_position ON job (position);

CREATE TABLE payload (
    job  INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE outcome (
    job    INTEGER PRIMARY KEY,
    result BLOB,
    tail   TEXT NOT NULL
) STRICT;

-- Attempts that ended without success. An attempt that runs or has succeeded is in the job's row.
CREATE TABLE attempt (
    job     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    started INTEGER NOT NULL,
    ended   INTEGER NOT NULL,
    failure TEXT    NOT NULL, -- JSON
    worker  TEXT,             -- JSON: the process of a remote worker that ran it
    lease   INTEGER,          -- its lease, if the worker ended it by a report
    PRIMARY KEY (job, number, ended)
) STRICT, WITHOUT ROWID;

-- State that attempts leave to the next attempt of their job.
CREATE TABLE checkpoint (
    job     INTEGER PRIMARY KEY,
    number  INTEGER NOT NULL,
    state   BLOB    NOT NULL,
    info    TEXT    NOT NULL, -- JSON: media type, metadata
    written INTEGER NOT NULL
) STRICT;

-- Jobs that ran as code of the server's own process when that crashed.
CREATE TABLE suspect (
    job INTEGER PRIMARY KEY
) STRICT;

-- Idempotent requests, for the answers to repeats.
CREATE TABLE request (
    key    BLOB    PRIMARY KEY, -- 16 bytes
    digest BLOB    NOT NULL,
    answer INTEGER NOT NULL,    -- 0: created jobs; 1: changed a job; 2: done; 3: asked for a purge
    first  INTEGER NOT NULL,    -- 0: the first job; 1: the job; 3: the queue
    count  INTEGER NOT NULL,    -- 0: number of jobs; 1: the job's state after the change; 3: number of skipped jobs
    live   INTEGER NOT NULL,    -- 0: number of its jobs that are not deleted; 1, 2: the queue
    value  INTEGER,             -- 1: the job's revision after it; 3: number of deleted jobs, absent until the end
    gone   INTEGER,             -- time since when it has had no jobs, in the time of counters.retention
    found  BLOB                 -- 0: its items that created no job: index (4 bytes) and job (8 bytes) of each
) STRICT, WITHOUT ROWID;
CREATE INDEX request_gone ON request (gone) WHERE gone IS NOT NULL;
-- Requests whose purge is in progress.
CREATE INDEX request_purging ON request (first) WHERE answer = 3 AND value IS NULL;

-- Unique keys that are held.
CREATE TABLE unique_key (
    key       BLOB    PRIMARY KEY, -- 16 bytes
    holder    INTEGER NOT NULL,    -- the job that holds it, or held it last
    successor INTEGER,             -- the job that waits for the holder's end
    until     INTEGER,             -- held until then after its end; while the holder waits, the earliest start; in the
                                   -- time of counters.backoffs
    name      TEXT                 -- JSON: the key's text and scope, once the holder has ended
) STRICT, WITHOUT ROWID;
CREATE INDEX unique_key_until ON unique_key (until) WHERE until IS NOT NULL;

-- Dependencies between jobs: an edge from a child to each parent that it waits for, or has waited for.
CREATE TABLE dependency (
    child     INTEGER NOT NULL,
    parent    INTEGER NOT NULL,    -- it may be deleted
    condition INTEGER NOT NULL,    -- number in the protocol's DependencyCondition
    optional  INTEGER NOT NULL,    -- 1: the edge falls away once its condition can't hold any more
    state     INTEGER NOT NULL,    -- number in the protocol's DependencyState; 1: the child waits for the parent
    live      INTEGER NOT NULL,    -- 1: the child has not ended
    PRIMARY KEY (child, parent)
) STRICT, WITHOUT ROWID;
CREATE INDEX dependency_parent ON dependency (parent, child);
-- The edges of children that have not ended; those that wait come first.
CREATE INDEX dependency_live ON dependency (parent, state, child) WHERE live = 1;

-- Parents that are over, of whose children some still have to be told.
CREATE TABLE over_parent (
    job   INTEGER PRIMARY KEY,
    state INTEGER                  -- the state in which it ended; absent if it was deleted before its end
) STRICT;

-- Ended jobs whose retention time is over, and that are kept until their children have ended.
CREATE TABLE spared (
    job INTEGER PRIMARY KEY
) STRICT;

-- Tombstones: deleted jobs, for the change feed.
CREATE TABLE tombstone (
    position INTEGER PRIMARY KEY,
    id       INTEGER NOT NULL,
    deleted  INTEGER NOT NULL, -- in the time of counters.retention
    queue    TEXT    NOT NULL, -- the name, because its number may have been reused
    kind     TEXT    NOT NULL,
    created  INTEGER NOT NULL,
    extras   TEXT
) STRICT;

-- Number of jobs by queue, kind and state.
CREATE TABLE tally (
    queue INTEGER NOT NULL,
    kind  INTEGER NOT NULL,
    state INTEGER NOT NULL,
    jobs  INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (queue, kind, state)
) STRICT, WITHOUT ROWID;

-- Purges in progress.
CREATE TABLE purge (
    queue   INTEGER PRIMARY KEY,
    last    INTEGER NOT NULL, -- the newest job that the purge covers
    deleted INTEGER NOT NULL
) STRICT;

-- The turns of fair queues, and of queues that were fair until lately.
CREATE TABLE turns (
    queue    INTEGER PRIMARY KEY,
    last     INTEGER NOT NULL, -- the participant that had the last turn
    renewing INTEGER NOT NULL  -- whether ready jobs may have participants of another label
) STRICT;

-- Limits of the jobs that run at once, or start in a time.
CREATE TABLE job_limit (
    number   INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    settings TEXT    NOT NULL, -- JSON: rule, key, queues and kinds
    revision INTEGER NOT NULL,
    declared INTEGER NOT NULL
) STRICT;

-- Rules of single values of limits.
CREATE TABLE limit_override (
    number    INTEGER PRIMARY KEY,
    job_limit INTEGER NOT NULL,
    value     TEXT    NOT NULL,
    rule      TEXT    NOT NULL, -- JSON
    UNIQUE (job_limit, value)
) STRICT;

-- Values of limits with spent tokens or a pause, in the time of counters.backoffs.
CREATE TABLE limit_value (
    job_limit    INTEGER NOT NULL,
    value        TEXT    NOT NULL,
    full_at      INTEGER NOT NULL, -- when all tokens are back, in nanoseconds
    paused_until INTEGER NOT NULL,
    PRIMARY KEY (job_limit, value)
) STRICT, WITHOUT ROWID;

-- Sweeps for ended jobs whose retention time is over: the position in the feed that each has reached.
CREATE TABLE sweep (
    keep_us INTEGER PRIMARY KEY,
    cursor  INTEGER NOT NULL
) STRICT;

-- The server's own retention, under which the sweeps have come so far: one row. -1 is for ever.
CREATE TABLE retention (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    succeeded_us INTEGER NOT NULL,
    failed_us    INTEGER NOT NULL,
    cancelled_us INTEGER NOT NULL,
    expired_us   INTEGER NOT NULL
) STRICT;

-- How the wall clock was set: from this position in the feed on, its lead in microseconds over counters.retention (plus
-- the time without a server that was counted later) and over counters.backoffs.
CREATE TABLE step (
    position     INTEGER PRIMARY KEY,
    of_retention INTEGER NOT NULL,
    of_backoffs  INTEGER NOT NULL
) STRICT;

-- Counters, which only grow, and times: one row.
CREATE TABLE counters (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    position   INTEGER NOT NULL,
    last_id    INTEGER NOT NULL,
    last_lease INTEGER NOT NULL,
    floor      INTEGER NOT NULL,
    store      BLOB    NOT NULL,
    place      BLOB,             -- id of the store as this very file, which the next two columns identify
    inode      INTEGER,
    born       INTEGER,          -- time at which the file was created
    wall       INTEGER,          -- wall-clock time of the latest change
    backoffs   INTEGER,          -- time by which backoffs are counted, at the latest change
    retention  INTEGER,          -- time by which retention is counted, at the latest change
    counted    INTEGER           -- wall-clock time up to which retention had been counted
) STRICT;
INSERT INTO counters (one, position, last_id, last_lease, floor, store) VALUES (1, 0, 0, 0, 0, randomblob(16));

-- Rows that could not be read, unchanged, for an operator to inspect. Nothing else reads their content.
CREATE TABLE set_aside (
    number  INTEGER PRIMARY KEY,
    source  TEXT    NOT NULL, -- the row's table
    key     INTEGER NOT NULL, -- the row's key in that table
    found   INTEGER NOT NULL, -- time at which the row was set aside
    reason  TEXT    NOT NULL,
    content TEXT    NOT NULL, -- JSON: all columns
    UNIQUE (source, key)
) STRICT;

-- Starts of a server.
CREATE TABLE incarnation (
    number INTEGER PRIMARY KEY,
    id     BLOB    NOT NULL,
    first  INTEGER NOT NULL
) STRICT;

-- Schedules. Instants are wall-clock times in microseconds since 1970.
CREATE TABLE schedule (
    id       INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    created  INTEGER NOT NULL,
    since    INTEGER NOT NULL, -- from when the present times count
    declared INTEGER NOT NULL, -- 1: the configuration declares it
    paused   TEXT,             -- JSON: since when, and why
    settings TEXT    NOT NULL  -- JSON: times, rules, and the job apart from its payload
) STRICT;

-- How far each schedule has come: the hot rows of schedules.
CREATE TABLE schedule_run (
    schedule     INTEGER PRIMARY KEY,
    generation   INTEGER NOT NULL, -- number of changes of its settings
    cursor       INTEGER NOT NULL, -- the instant up to which everything is decided
    wake         INTEGER,          -- time of the next thing to do
    is_unsettled INTEGER NOT NULL, -- 1: its state depends on more than the time
    is_paused    INTEGER NOT NULL,
    bytes        INTEGER NOT NULL, -- size of the payload
    state        TEXT    NOT NULL  -- JSON: the next instant, the last job, counts, ranges of instants that have run
) STRICT;

CREATE TABLE schedule_payload (
    schedule INTEGER PRIMARY KEY,
    body     BLOB NOT NULL
) STRICT;

-- The calendars that schedules use.
CREATE TABLE schedule_calendar (
    calendar TEXT    NOT NULL,
    schedule INTEGER NOT NULL,
    PRIMARY KEY (calendar, schedule)
) STRICT, WITHOUT ROWID;
CREATE INDEX schedule_calendar_schedule ON schedule_calendar (schedule);

CREATE TABLE calendar (
    number   INTEGER PRIMARY KEY,
    name     TEXT    NOT NULL UNIQUE,
    dates    TEXT    NOT NULL, -- JSON: dates and ranges of dates
    revision INTEGER NOT NULL,
    declared INTEGER NOT NULL
) STRICT;

-- The version of the time zone database by which the next instants were computed: one row.
CREATE TABLE time_zones (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version TEXT    NOT NULL
) STRICT;
