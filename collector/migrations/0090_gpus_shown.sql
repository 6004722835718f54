-- Which TPM showed a report of which GPU, by the identifier that the GPU's maker certified: from the
-- first statement that cited one to the last. One GPU at two nodes is an alert.
CREATE TABLE gpus_shown (
    device   TEXT    NOT NULL,
    ek       BLOB    NOT NULL REFERENCES nodes (ek),
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    PRIMARY KEY (device, ek)
) STRICT, WITHOUT ROWID;
