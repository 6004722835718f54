-- Where a boot log or a measurement list came along: later statements of the boot name its digest.
CREATE TABLE kept_logs (
    ek        BLOB    NOT NULL REFERENCES nodes (ek),
    digest    BLOB    NOT NULL CHECK (length(digest) = 32),
    log_index INTEGER NOT NULL REFERENCES statements (log_index),
    PRIMARY KEY (ek, digest)
) STRICT, WITHOUT ROWID;
