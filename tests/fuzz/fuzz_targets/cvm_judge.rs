#![no_main]
// A kind of report, the length of a host's table, the table, the report.
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::cvm::{Asked, Endorsements, judge};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Some(([kind, high, low], rest)) = data.split_first_chunk::<3>() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let Some((table, report)) = rest.split_at_checked(length) else {
        return;
    };
    let judged = judge(&Asked {
        kind: ["sev-snp", "tdx", "azure-vtpm", "svsm-vtpm"][usize::from(kind % 4)],
        report,
        table,
        report_data: &[0x5a; 64],
        manifest: table,
        tpm: None,
        endorsements: &Endorsements::default(),
        crls: &[],
        roots: &[],
        at: UnixTime::from_secs(1_768_003_200),
    });
    // Nobody asked this of a chip.
    assert!(!judged.proven() && !judged.faults.is_empty());
});
