#![no_main]
use bailiwick_attestation::boot::{EventLog, Facts, Quirk, examine};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(log) = EventLog::parse(data) else {
        return;
    };
    let declared = log.banks().iter().filter_map(|bank| bank.hash());
    for bank in declared {
        let replay = log.replay(bank);
        assert!(replay.values.keys().all(|register| *register < 24));
        let strict = examine(&log, bank, &[]);
        let excused = examine(&log, bank, &Quirk::ALL);
        let facts = Facts::of(&log, bank);
        assert!(facts.applications.len() <= log.events().len());
        assert!(facts.commands.len() <= log.events().len());
        // A quirk turns refusals into warnings and hides nothing.
        assert_eq!(
            strict.refusals.len() + strict.warnings.len(),
            excused.refusals.len() + excused.warnings.len()
        );
    }
    if let Ok(bank) = log.choose(None) {
        assert!(log.replay(bank).unknown.is_empty());
    }
});
