#![no_main]
// Certificates behind a length of two bytes, then a list in any of its forms: about whichever of
// them, each issued by whichever other.
use bailiwick_attestation::{UnixTime, gpu, x509::Bundle};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes(*length));
    let Some((bundle, list)) = rest.split_at_checked(length) else {
        return;
    };
    let Ok(list) = gpu::parse_crl(list) else {
        return;
    };
    let bundle = Bundle::parse(bundle).unwrap_or_default();
    let all = &bundle.certificates;
    let pairs: Vec<_> = all
        .iter()
        .flat_map(|one| all.iter().map(move |issuer| (one, issuer)))
        .take(64)
        .collect();
    let at = UnixTime::from_secs(1_767_225_600);
    let (good, refused) = gpu::check_crl(&list, &pairs, at);
    assert!(good.len() <= pairs.len() && refused.len() <= pairs.len() + 1);
    assert!(good.iter().all(|one| one.document == list.digest()));
});
