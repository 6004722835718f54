//! A generator of lists of revoked certificates.

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber,
};

use super::made::{Chain, NAMES, params};
use bailiwick_attestation::x509::Certificate;

/// What the certificate at that place of a chain says it took back, on 2026-01-01 for a month, as
/// edited.
pub(crate) fn list(
    chain: &Chain,
    by: usize,
    revoked: &[&Certificate],
    edit: impl FnOnce(&mut CertificateRevocationListParams),
) -> Vec<u8> {
    let date = rcgen::date_time_ymd(2026, 1, 1);
    let entry = |certificate: &&Certificate| RevokedCertParams {
        serial_number: SerialNumber::from_slice(certificate.serial()),
        revocation_time: date,
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    let mut list = CertificateRevocationListParams {
        this_update: date,
        next_update: rcgen::date_time_ymd(2026, 2, 1),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    edit(&mut list);
    let mut own = params(NAMES[by], true);
    own.key_usages = vec![KeyUsagePurpose::CrlSign];
    let issuer = Issuer::from_params(&own, &chain.keys[by]);
    list.signed_by(&issuer).unwrap().der().to_vec()
}
