#![no_main]
// The same bytes as leaf, intermediates and roots, and as a device's chain: loops, dead ends, and
// whatever stands in the extensions of a leaf.
use bailiwick_attestation::{UnixTime, gpu, x509::Bundle};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let bundle = Bundle::parse(data).unwrap_or_default();
    let all = &bundle.certificates;
    let anchors = gpu::Anchors::of(all);
    let at = UnixTime::from_secs(1_767_225_600);
    if let Some(leaf) = all.first() {
        gpu::find_chain(leaf, all, &anchors, at).ok();
        gpu::find_chain(leaf, all, &gpu::Anchors::device(), at).ok();
    }
    let evidence = gpu::Evidence {
        report: data,
        chain: Some(&bundle),
        stated_nonce: None,
    };
    let judged = gpu::judge(evidence, &anchors, None, at);
    std::hint::black_box(gpu::judge_set(&[judged.clone(), judged]));
});
