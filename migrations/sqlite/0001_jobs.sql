-- Names of queues and kinds have small numbers, so that rows stay narrow.
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
    keep_succeeded_us    INTEGER, -- how long ended jobs are kept: -1 for ever, absent as the server says
    keep_failed_us       INTEGER,
    keep_cancelled_us    INTEGER,
    keep_expired_us      INTEGER,
    paused               INTEGER NOT NULL,
    revision             INTEGER NOT NULL,
    declared             INTEGER NOT NULL, -- 1: the configuration declares it; 2: it did once
    deleted              INTEGER NOT NULL
) STRICT;

CREATE TABLE kind (
    number INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL UNIQUE
) STRICT;

-- The hot rows. Instants are microseconds since 1970, as the clock said them; absent texts mean the default.
CREATE TABLE job (
    id           INTEGER PRIMARY KEY,
    queue        INTEGER NOT NULL,
    kind         INTEGER NOT NULL,
    state        INTEGER NOT NULL, -- numbers of the protocol's JobState
    rank         INTEGER NOT NULL, -- the negated priority
    detail       INTEGER,          -- SCHEDULED: due; BACKING_OFF: due, by counters.backoffs; QUEUED: order;
                                   -- RUNNING, CANCELLING: lease
    revision     INTEGER NOT NULL,
    position     INTEGER NOT NULL, -- of the latest change in the feed
    attempt      INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    timeout_us   INTEGER NOT NULL,
    created      INTEGER NOT NULL,
    updated      INTEGER NOT NULL,
    started      INTEGER,
    ended        INTEGER,
    retry        TEXT,             -- JSON
    extras       TEXT,             -- JSON: labels, headers, payload type, request id, trace context, what was said
    progress     TEXT,             -- JSON
    failure      TEXT,             -- JSON
    expires      INTEGER,          -- over if no attempt has started by then
    result       TEXT,             -- JSON: size, media type, metadata
    payload      BLOB              -- absent where it is large: then in its own table
) STRICT;

-- What may run, in the order in which it runs.
CREATE INDEX job_ready ON job (queue, kind, rank, detail) WHERE state = 3;
-- What waits for its time, in each queue.
CREATE INDEX job_due ON job (state, queue, detail) WHERE state IN (1, 5);
-- What may be over before it starts.
CREATE INDEX job_expiring ON job (expires) WHERE expires IS NOT NULL AND attempt = 0 AND state IN (1, 3);
-- What runs.
CREATE INDEX job_leased ON job (id) WHERE state IN (4, 6);
-- What failed: the dead letters.
CREATE INDEX job_failed ON job (id) WHERE state = 8;
-- The change feed, and the ended jobs in the order of their ends.
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

-- Attempts that ended without success. The one that runs, or that succeeded, is in the job's row.
CREATE TABLE attempt (
    job     INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    started INTEGER NOT NULL,
    ended   INTEGER NOT NULL,
    failure TEXT    NOT NULL, -- JSON
    PRIMARY KEY (job, number, ended)
) STRICT, WITHOUT ROWID;

-- Requests that may be repeated.
CREATE TABLE request (
    key    BLOB    PRIMARY KEY, -- 16 bytes
    digest BLOB    NOT NULL,
    answer INTEGER NOT NULL,    -- 0: made jobs; 1: changed a job; 2: done; 3: asked for a purge
    first  INTEGER NOT NULL,    -- 0: the first job; 1: the job; 3: the queue
    count  INTEGER NOT NULL,    -- 0: how many jobs; 1: the job's state then
    live   INTEGER NOT NULL,    -- 0: how many of its jobs are not deleted; 1, 2: the queue
    value  INTEGER,             -- 1: the job's revision then; 3: how many jobs were deleted, absent until the end
    gone   INTEGER              -- since when it has had no jobs, by counters.retention
) STRICT, WITHOUT ROWID;
CREATE INDEX request_gone ON request (gone) WHERE gone IS NOT NULL;
-- What purges under way will answer.
CREATE INDEX request_purging ON request (first) WHERE answer = 3 AND value IS NULL;

-- Deleted jobs, for the change feed.
CREATE TABLE tombstone (
    position INTEGER PRIMARY KEY,
    id       INTEGER NOT NULL,
    deleted  INTEGER NOT NULL, -- by counters.retention
    queue    TEXT    NOT NULL, -- the name: its number may be another one's by now
    kind     TEXT    NOT NULL,
    created  INTEGER NOT NULL,
    extras   TEXT
) STRICT;

-- How many jobs are where.
CREATE TABLE tally (
    queue INTEGER NOT NULL,
    kind  INTEGER NOT NULL,
    state INTEGER NOT NULL,
    jobs  INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (queue, kind, state)
) STRICT, WITHOUT ROWID;

-- Purges under way.
CREATE TABLE purge (
    queue   INTEGER PRIMARY KEY,
    last    INTEGER NOT NULL, -- the last job that it covers
    deleted INTEGER NOT NULL
) STRICT;

-- Sweeps for ended jobs whose time is over: how far in the feed each has come.
CREATE TABLE sweep (
    keep_us INTEGER PRIMARY KEY,
    cursor  INTEGER NOT NULL
) STRICT;

-- The server's own times of retention, under which the sweeps have come so far: one row. -1 is for ever.
CREATE TABLE retention (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    succeeded_us INTEGER NOT NULL,
    failed_us    INTEGER NOT NULL,
    cancelled_us INTEGER NOT NULL,
    expired_us   INTEGER NOT NULL
) STRICT;

-- How the clock was set: from this place in the feed on it was so many microseconds ahead of counters.retention, but for
-- time without a server that was counted later, and of counters.backoffs.
CREATE TABLE step (
    position     INTEGER PRIMARY KEY,
    of_retention INTEGER NOT NULL,
    of_backoffs  INTEGER NOT NULL
) STRICT;

-- Numbers that only grow, but for what the clock says: one row.
CREATE TABLE counters (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    position   INTEGER NOT NULL,
    last_id    INTEGER NOT NULL,
    last_lease INTEGER NOT NULL,
    floor      INTEGER NOT NULL,
    store      BLOB    NOT NULL,
    place      BLOB,             -- what the store is called as this very file, of which the next two columns tell
    inode      INTEGER,
    born       INTEGER,          -- when the file was made
    wall       INTEGER,          -- what the clock said at the latest change
    backoffs   INTEGER,          -- the time by which backoffs end, then
    retention  INTEGER,          -- the time for which servers had run, then
    counted    INTEGER           -- up to when, by the clock, retention had counted
) STRICT;
INSERT INTO counters (one, position, last_id, last_lease, floor, store) VALUES (1, 0, 0, 0, 0, randomblob(16));

-- Rows that could not be read, as they were: what an operator may look into. Nothing else reads them.
CREATE TABLE set_aside (
    number  INTEGER PRIMARY KEY,
    source  TEXT    NOT NULL, -- the table they were in
    key     INTEGER NOT NULL, -- their key there
    found   INTEGER NOT NULL, -- when
    reason  TEXT    NOT NULL,
    content TEXT    NOT NULL, -- JSON: all columns
    UNIQUE (source, key)
) STRICT;

-- Every start of a server.
CREATE TABLE incarnation (
    number INTEGER PRIMARY KEY,
    id     BLOB    NOT NULL,
    first  INTEGER NOT NULL
) STRICT;
