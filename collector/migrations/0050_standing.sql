-- The brake: causes for which nodes lost standing, and which nodes did.
CREATE TABLE brake_causes (
    cause  TEXT    NOT NULL PRIMARY KEY,
    -- `held` or `confirmed`; a cause that is only counted has losses and no row here.
    phase  TEXT    NOT NULL,
    at_ms  INTEGER NOT NULL,
    by     TEXT    NOT NULL DEFAULT '',
    reason TEXT    NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE brake_losses (
    cause TEXT    NOT NULL,
    ek    BLOB    NOT NULL CHECK (length(ek) = 32),
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (cause, ek)
) STRICT, WITHOUT ROWID;
CREATE INDEX brake_losses_by_node ON brake_losses (ek);

-- What ended the last lease early; empty where none was.
ALTER TABLE nodes ADD COLUMN lease_ended TEXT NOT NULL DEFAULT '';
-- Break-glass in force there, by the node's word: manifest, and until when by this clock.
ALTER TABLE nodes ADD COLUMN break_glass TEXT NOT NULL DEFAULT '';
ALTER TABLE nodes ADD COLUMN break_glass_until_ms INTEGER;
