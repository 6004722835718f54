-- When the first statement of each boot came: a boot by the kernel's random id and the TPM reset it
-- began with. Statements of earlier versions have none until their boot says something again.
CREATE TABLE boots (
    ek          BLOB    NOT NULL REFERENCES nodes (ek),
    boot_id     BLOB    NOT NULL CHECK (length(boot_id) = 16),
    reset_count INTEGER NOT NULL,
    first_ms    INTEGER NOT NULL,
    PRIMARY KEY (ek, boot_id, reset_count)
) STRICT, WITHOUT ROWID;
-- The newest statement before a moment, or the newest that was affirmed.
CREATE INDEX statements_by_time ON statements (ek, verdict, received_ms);
