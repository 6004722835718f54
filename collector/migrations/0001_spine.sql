-- One row per TPM that ever enrolled; `ek` is the digest of its endorsement key.
CREATE TABLE nodes (
    ek                       BLOB    NOT NULL PRIMARY KEY CHECK (length(ek) = 32),
    claimed_name             TEXT    NOT NULL,
    ak_name                  BLOB    NOT NULL,
    certificate              BLOB    NOT NULL CHECK (length(certificate) = 32),
    certificate_not_after_ms INTEGER NOT NULL,
    revoked_ms               INTEGER,
    enrolment                BLOB    NOT NULL,
    enrolled_ms              INTEGER NOT NULL,
    -- The newest accepted statement. NULL before the first.
    newest                   BLOB,
    newest_ak                BLOB,
    last_seen_ms             INTEGER,
    policy_version           INTEGER NOT NULL DEFAULT 0,
    statements               INTEGER NOT NULL DEFAULT 0,
    -- Standing.
    verdict                  TEXT    NOT NULL DEFAULT 'none',
    reason                   TEXT    NOT NULL DEFAULT '',
    since_ms                 INTEGER NOT NULL,
    -- What appraisal last said and why, which silence does not unsay.
    appraised                TEXT    NOT NULL DEFAULT 'none',
    appraised_reason         TEXT    NOT NULL DEFAULT '',
    appraised_since_ms       INTEGER NOT NULL DEFAULT 0,
    lease_until_ms           INTEGER,
    -- What alerts are derived from.
    fence                    TEXT    NOT NULL DEFAULT 'unknown',
    fence_reason             TEXT    NOT NULL DEFAULT '',
    fence_since_ms           INTEGER NOT NULL DEFAULT 0,
    gap_ms                   INTEGER,
    gap_reason               TEXT    NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE enrolments (
    id           INTEGER PRIMARY KEY,
    ek           BLOB    NOT NULL REFERENCES nodes (ek),
    activated_ms INTEGER NOT NULL,
    enrolment    BLOB    NOT NULL
) STRICT;

CREATE TABLE policies (
    version         INTEGER NOT NULL PRIMARY KEY,
    manifest_digest BLOB    NOT NULL UNIQUE,
    bundle          BLOB    NOT NULL,
    applied_ms      INTEGER NOT NULL,
    applied_by      TEXT    NOT NULL
) STRICT;

-- Everything needed to appraise one statement again.
CREATE TABLE statements (
    id                INTEGER PRIMARY KEY,
    ek                BLOB    NOT NULL REFERENCES nodes (ek),
    epoch             INTEGER NOT NULL,
    sequence          INTEGER NOT NULL,
    digest            BLOB    NOT NULL,
    evidence          BLOB    NOT NULL,
    verdict           TEXT    NOT NULL,
    reasons           TEXT    NOT NULL,
    result            BLOB    NOT NULL,
    received_ms       INTEGER NOT NULL,
    manifest_digest   BLOB,
    enrolment         BLOB    NOT NULL,
    previous          BLOB,
    log_index         INTEGER NOT NULL UNIQUE,
    UNIQUE (ek, epoch, sequence)
) STRICT;
CREATE INDEX statements_by_digest ON statements (ek, digest);

-- What state existed when, in O(changes).
CREATE TABLE intervals (
    id      INTEGER PRIMARY KEY,
    ek      BLOB    NOT NULL REFERENCES nodes (ek),
    verdict TEXT    NOT NULL,
    reason  TEXT    NOT NULL,
    from_ms INTEGER NOT NULL,
    to_ms   INTEGER,
    digest  BLOB
) STRICT;
CREATE INDEX intervals_by_node ON intervals (ek, from_ms);

-- Denials. A node that lost its log counts from 0 again: times tell the two apart.
CREATE TABLE events (
    id           INTEGER PRIMARY KEY,
    ek           BLOB    NOT NULL REFERENCES nodes (ek),
    number       INTEGER NOT NULL,
    boot_time_ns INTEGER NOT NULL,
    wall_time_ms INTEGER NOT NULL,
    study        TEXT    NOT NULL,
    received_ms  INTEGER NOT NULL,
    event        BLOB    NOT NULL,
    UNIQUE (ek, number, boot_time_ns, wall_time_ms)
) STRICT;
CREATE INDEX events_by_time ON events (received_ms);

-- The log: entries, the roots of its perfect subtrees (RFC 6962), and its one head.
CREATE TABLE log_entries (
    number INTEGER NOT NULL PRIMARY KEY,
    entry  BLOB    NOT NULL
) STRICT;
CREATE TABLE log_nodes (
    level  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hash   BLOB    NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (level, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE log_head (
    one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    size INTEGER NOT NULL,
    root BLOB    NOT NULL
) STRICT;

CREATE TABLE alerts (
    id          INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    node        TEXT    NOT NULL,
    labels      TEXT    NOT NULL,
    severity    TEXT    NOT NULL,
    summary     TEXT    NOT NULL,
    since_ms    INTEGER NOT NULL,
    resolved_ms INTEGER,
    -- Last time every receiver took it; a resolved alert is told until `closed`.
    notified_ms INTEGER,
    closed      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX alerts_firing ON alerts (name, node) WHERE resolved_ms IS NULL;
