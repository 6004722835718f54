-- Acts that matter by themselves: enrolments, policies, retirements, revocations. Each has a leaf
-- of its own in the log; `digest` is SHA-256 of `body`, and what the leaf names.
CREATE TABLE acts (
    id        INTEGER PRIMARY KEY,
    kind      TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    ek        BLOB,
    actor     TEXT    NOT NULL,
    at_ms     INTEGER NOT NULL,
    digest    BLOB    NOT NULL CHECK (length(digest) = 32),
    body      BLOB    NOT NULL,
    log_index INTEGER NOT NULL UNIQUE
) STRICT;
CREATE INDEX acts_by_ek ON acts (ek, id);

-- The name the inventory gave it when it last enrolled; '' while pending.
ALTER TABLE nodes ADD COLUMN listed_name TEXT NOT NULL DEFAULT '';
-- Devices it says it has, a JSON array: GPU UUIDs and serials.
ALTER TABLE nodes ADD COLUMN devices TEXT NOT NULL DEFAULT '[]';
CREATE INDEX nodes_by_listed_name ON nodes (listed_name);
