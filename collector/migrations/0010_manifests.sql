-- What approvers signed, of every kind; each kind is a line of versions of its own.
CREATE TABLE manifests (
    kind            TEXT    NOT NULL,
    version         INTEGER NOT NULL,
    manifest_digest BLOB    NOT NULL UNIQUE,
    bundle          BLOB    NOT NULL,
    applied_ms      INTEGER NOT NULL,
    applied_by      TEXT    NOT NULL,
    PRIMARY KEY (kind, version)
) STRICT;
INSERT INTO manifests (kind, version, manifest_digest, bundle, applied_ms, applied_by)
    SELECT 'policy', version, manifest_digest, bundle, applied_ms, applied_by FROM policies;
DROP TABLE policies;
