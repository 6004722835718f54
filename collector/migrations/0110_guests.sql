-- Guests without a TPM: which running one enrolled, by REPORT_ID or by SHA-256 of its key. One that
-- another has followed and that comes back runs beside it.
ALTER TABLE enrolments ADD COLUMN instance BLOB;
-- When it came back; NULL: it never did.
ALTER TABLE enrolments ADD COLUMN returned_ms INTEGER;
CREATE INDEX enrolments_by_instance ON enrolments (ek, instance) WHERE instance IS NOT NULL;

-- The one that enrolled last. NULL: a TPM.
ALTER TABLE nodes ADD COLUMN instance BLOB;
-- When two were last found to run under its name, and which came back.
ALTER TABLE nodes ADD COLUMN twice_ms INTEGER;
ALTER TABLE nodes ADD COLUMN twice TEXT NOT NULL DEFAULT '';
