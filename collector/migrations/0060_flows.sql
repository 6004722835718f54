-- What passed the fences, as nodes counted it: sums by hour. Bounded for each node by itself, so
-- that none crowds another out.
CREATE TABLE flow_counts (
    ek           BLOB    NOT NULL CHECK (length(ek) = 32),
    -- The hour in which counting ended, by the node's clock, never after the collector's.
    hour_ms      INTEGER NOT NULL,
    -- Empty: a host service.
    study        TEXT    NOT NULL,
    -- Empty: not told apart, and then of no study.
    jurisdiction TEXT    NOT NULL,
    direction    TEXT    NOT NULL,
    from_ms      INTEGER NOT NULL,
    to_ms        INTEGER NOT NULL,
    packets      INTEGER NOT NULL,
    bytes        INTEGER NOT NULL,
    PRIMARY KEY (ek, hour_ms, study, jurisdiction, direction)
) STRICT, WITHOUT ROWID;
CREATE INDEX flow_counts_by_study ON flow_counts (study, hour_ms);

-- How many of them each node has.
CREATE TABLE flow_nodes (
    ek   BLOB    NOT NULL PRIMARY KEY CHECK (length(ek) = 32),
    rows INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Times in which a node counted without a break.
CREATE TABLE flow_spans (
    ek      BLOB    NOT NULL CHECK (length(ek) = 32),
    from_ms INTEGER NOT NULL,
    to_ms   INTEGER NOT NULL,
    PRIMARY KEY (ek, from_ms)
) STRICT, WITHOUT ROWID;
