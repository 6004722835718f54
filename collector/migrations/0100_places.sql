-- What was beside a node when its geotag was first shown, and what is beside it now: switches at the
-- other ends of its wires, source addresses. JSON, read by nobody but the collector.
CREATE TABLE places (
    ek         BLOB    NOT NULL PRIMARY KEY REFERENCES nodes (ek),
    geotag     BLOB    NOT NULL CHECK (length(geotag) = 32),
    at_ms      INTEGER NOT NULL,
    until_ms   INTEGER NOT NULL,
    begun_ms   INTEGER NOT NULL,
    fault      TEXT    NOT NULL,
    expected   TEXT    NOT NULL,
    shown      TEXT    NOT NULL,
    differs_ms INTEGER
) STRICT, WITHOUT ROWID;
