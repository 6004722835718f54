-- Denials are entries of the nodes' own logs now. What was here held addresses in the clear.
DROP TABLE events;

-- One row per epoch of a node's log.
CREATE TABLE node_logs (
    ek        BLOB    NOT NULL REFERENCES nodes (ek),
    epoch     INTEGER NOT NULL,
    -- The entry expected next: everything before was delivered, or is known to be missing.
    delivered INTEGER NOT NULL DEFAULT 0,
    -- Entries that were found to stand under the root of an accepted statement, and the roots of
    -- the perfect subtrees over them, left to right.
    proven    INTEGER NOT NULL DEFAULT 0,
    edge      BLOB    NOT NULL DEFAULT x'',
    PRIMARY KEY (ek, epoch)
) STRICT;

-- What accepted statements said of it and delivered entries have not been held against yet.
CREATE TABLE node_heads (
    ek    BLOB    NOT NULL REFERENCES nodes (ek),
    epoch INTEGER NOT NULL,
    size  INTEGER NOT NULL,
    root  BLOB    NOT NULL CHECK (length(root) = 32),
    PRIMARY KEY (ek, epoch, size)
) STRICT;

-- Entries byte for byte as they are hashed, and what is sealed beside them.
CREATE TABLE node_entries (
    id          INTEGER PRIMARY KEY,
    ek          BLOB    NOT NULL REFERENCES nodes (ek),
    epoch       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    study       TEXT    NOT NULL,
    entry       BLOB    NOT NULL,
    leaf        BLOB    NOT NULL CHECK (length(leaf) = 32),
    sealed      BLOB    NOT NULL,
    received_ms INTEGER NOT NULL,
    UNIQUE (ek, epoch, number)
) STRICT;
CREATE INDEX node_entries_by_time ON node_entries (received_ms);

-- When a node's log was last found to be other than it was, and how.
ALTER TABLE nodes ADD COLUMN log_fault_ms INTEGER;
ALTER TABLE nodes ADD COLUMN log_fault TEXT NOT NULL DEFAULT '';
