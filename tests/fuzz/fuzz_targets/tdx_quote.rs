#![no_main]
use bailiwick_attestation::UnixTime;
use bailiwick_attestation::cvm::tdx::{Quote, verify};
bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let Ok(quote) = Quote::parse(data) else {
        return;
    };
    let body = if quote.version == 4 { 48 } else { 54 };
    assert_eq!(data.get(body..body + 16), Some(&quote.body.tee_tcb_svn[..]));
    assert_eq!(
        data.get(body + 136..body + 184),
        Some(&quote.body.mr_td[..])
    );
    assert_eq!(
        data.get(body + 520..body + 584),
        Some(&quote.body.report_data[..])
    );
    let kind = data.get(48).filter(|_| quote.version == 5);
    let tdx_1_5 = matches!(kind, Some(3 | 4));
    assert_eq!(quote.body.tee_tcb_svn2.is_some(), tdx_1_5);
    let vmid = data.get(54 + 648).filter(|_| kind == Some(&4));
    assert_eq!(quote.body.vmid.as_ref(), vmid);
    // Nobody but Intel has the root's key.
    let chain = quote.pck_chain.as_deref().unwrap_or_default();
    assert!(verify(&quote, chain, UnixTime::from_secs(1_768_003_200)).is_err());
});
