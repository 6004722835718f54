//! The quote itself: what is signed, by whom, and what is no quote.

use super::super::{MAX_QUOTE_BYTES, Quote, verify};
use super::made::{AT, Plan, made};
use super::{V4, V5, chained, codes};
use crate::ids::UnixTime;
use crate::x509::{Bundle, Certificate};

#[test]
fn a_quote_is_believed_of_the_processor_that_signed_it() {
    for (name, made) in [("version 4", &V4), ("version 5, TDX 1.5", &V5)] {
        assert_eq!(chained(made, &made.quote, AT), Ok(()), "{name}");
    }
    let v5_of_1_0 = made(&Plan {
        kind: 2,
        ..Plan::v5()
    });
    assert_eq!(chained(&v5_of_1_0, &v5_of_1_0.quote, AT), Ok(()));
    let padded = [&V4.quote[..], &[0; 300]].concat();
    assert_eq!(chained(&V4, &padded, AT), Ok(()));

    let read = Quote::parse(&V5.quote).unwrap();
    assert_eq!(read.version, 5);
    assert_eq!(read.body.mr_td, &[0x22; 48]);
    assert_eq!(
        read.body.rtmr,
        [&[0x30; 48], &[0x31; 48], &[0x32; 48], &[0x33; 48]]
    );
    assert_eq!(read.body.report_data, &[0x44; 64]);
    assert_eq!(read.body.tee_tcb_svn2.map(|svn| svn[0]), Some(5));
    assert_eq!(read.body.mr_service_td, Some(&[0x11; 48]));
    assert!(!read.body.debug());
    assert_eq!((read.qe_report.isv_prod_id, read.qe_report.isv_svn), (2, 4));
    assert_eq!(Quote::parse(&V4.quote).unwrap().body.tee_tcb_svn2, None);
    assert_eq!((read.body.vmid, read.body.td_id), (None, None));
    let debug = made(&Plan {
        td_attributes: [1, 0, 0, 0, 0, 0, 0, 0],
        ..Plan::v4()
    });
    assert!(Quote::parse(&debug.quote).unwrap().body.debug());
}

#[test]
fn a_body_that_tells_launch_and_partition_is_signed_to_its_last_byte() {
    let extended = made(&Plan {
        kind: 4,
        vmid: 2,
        ..Plan::v5()
    });
    assert_eq!(chained(&extended, &extended.quote, AT), Ok(()));
    let read = Quote::parse(&extended.quote).unwrap();
    assert_eq!(
        (read.body.vmid, read.body.td_id),
        (Some(2), Some(&[0x55; 32]))
    );
    assert_eq!(read.body.mr_td, &[0x22; 48]);
    assert_eq!(read.body.report_data, &[0x44; 64]);
    assert_eq!(read.body.tee_tcb_svn2.map(|svn| svn[0]), Some(5));
    assert_eq!(read.body.mr_service_td, Some(&[0x11; 48]));
    for at in [54 + 648, 54 + 649, 54 + 681, 54 + 884] {
        let mut quote = extended.quote.clone();
        quote[at] ^= 1;
        let refused = chained(&extended, &quote, AT);
        assert_eq!(refused, Err(vec!["quote-signature"]), "{at}");
    }
    // A body of another kind's size is none of either.
    for (kind, want) in [
        (3_u8, "body.Size at offset 50: found 0x375, wanted 0x288"),
        (5, "body.Type at offset 48: 0x5"),
    ] {
        let mut quote = extended.quote.clone();
        quote[48] = kind;
        let error = Quote::parse(&quote).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

/// One bit of each byte that anything signs, and of each signature: nothing is left that could be
/// changed. What frames the certificates is text, where spaces are free.
#[test]
fn no_byte_of_a_quote_can_be_changed() {
    // Of the second every fifth is enough: they differ in the body alone.
    for (made, signed, step) in [(&V4, 48 + 584, 1), (&V5, 54 + 648, 5)] {
        let certificates = signed + 4 + 128 + 6 + 384 + 64 + 2 + 32 + 6;
        let mut checked = 0;
        for at in (0..certificates).step_by(step) {
            let mut quote = made.quote.clone();
            quote[at] ^= 1;
            let Ok(read) = Quote::parse(&quote) else {
                continue;
            };
            checked += 1;
            let chain = read.pck_chain.clone().unwrap_or_default();
            let want: &[&str] = match at {
                _ if chain.is_empty() => &["root-not-known"],
                _ if at < signed + 4 + 64 => &["quote-signature"],
                _ if at < signed + 4 + 128 => &["quote-signature", "attestation-key"],
                _ if at < signed + 138 + 320 => &["qe-report-signature"],
                _ if at < signed + 138 + 384 => &["attestation-key", "qe-report-signature"],
                _ if at < signed + 138 + 384 + 64 => &["qe-report-signature"],
                _ => &["attestation-key"],
            };
            let refused = super::verify_under(&made.root, &read, &chain, AT).unwrap_err();
            assert_eq!(codes(&refused), want, "{at}");
        }
        // All but what makes it a quote of this kind and of these lengths.
        assert!(
            checked * step > certificates - 40,
            "{checked} of {certificates}"
        );
    }
}

#[test]
fn a_root_is_built_in_or_none() {
    let quote = Quote::parse(&V4.quote).unwrap();
    let chain = quote.pck_chain.clone().unwrap();
    let refused = |chain: &[Certificate], at| codes(&verify(&quote, chain, at).unwrap_err());
    assert_eq!(refused(&chain, AT), ["root-not-known"]);
    assert_eq!(refused(&[], AT), ["root-not-known"]);
    // Another processor's chain: its names fit, its signatures do not.
    let other = V5.collateral.pck_chain.as_bytes();
    let mixed = {
        let mut mixed = Bundle::parse(other).unwrap().certificates;
        mixed[0] = chain[0].clone();
        mixed
    };
    let refused = super::verify_under(&V5.root, &quote, &mixed, AT).unwrap_err();
    assert_eq!(codes(&refused), ["signature"]);
    // All of another processor's: a good path, to a key that signed none of this.
    let theirs = Bundle::parse(other).unwrap().certificates;
    let refused = super::verify_under(&V5.root, &quote, &theirs, AT).unwrap_err();
    assert_eq!(codes(&refused), ["qe-report-signature"]);
}

#[test]
fn certificates_count_in_their_time() {
    for (at, want) in [(1_600_000_000, "not-yet-valid"), (2_300_000_000, "expired")] {
        let at = UnixTime::from_secs(at);
        assert_eq!(chained(&V4, &V4.quote, at), Err(vec![want]));
    }
}

#[test]
fn the_certificate_is_of_a_processors_key() {
    let named = made(&Plan {
        pck_name: "Intel SGX TCB Signing",
        ..Plan::v4()
    });
    assert_eq!(
        chained(&named, &named.quote, AT),
        Err(vec!["pck-certificate"])
    );
    let nothing = made(&Plan {
        pck_extension: false,
        ..Plan::v4()
    });
    assert_eq!(
        chained(&nothing, &nothing.quote, AT),
        Err(vec!["certificate-extension"])
    );
    let p384 = made(&Plan {
        pck_p384: true,
        ..Plan::v4()
    });
    assert_eq!(chained(&p384, &p384.quote, AT), Err(vec!["key-type"]));
}

#[test]
fn a_quote_that_names_its_processor_otherwise_needs_the_certificate() {
    let elsewhere = made(&Plan {
        certification: 3,
        ..Plan::v4()
    });
    let quote = Quote::parse(&elsewhere.quote).unwrap();
    assert_eq!(quote.pck_chain, None);
    let kept = elsewhere.collateral.pck_chain.as_bytes();
    let kept = Bundle::parse(kept).unwrap().certificates;
    super::verify_under(&elsewhere.root, &quote, &kept, AT).unwrap();
}

#[test]
fn malformed_quotes_say_where() {
    let over = |good: &[u8], at: usize, what: &[u8]| {
        let mut quote = good.to_vec();
        quote[at..at + what.len()].copy_from_slice(what);
        quote
    };
    let v4 = |at: usize, what: &[u8]| over(&V4.quote, at, what);
    let v5 = |at: usize, what: &[u8]| over(&V5.quote, at, what);
    let data = 48 + 584;
    let rows: [(&str, Vec<u8>, &str); 16] = [
        (
            "nothing",
            vec![],
            "Quote.header.Version at offset 0: needs 2 bytes, 0 left",
        ),
        ("version 3", v4(0, &[3]), "header.Version at offset 0: 0x3"),
        ("version 6", v4(0, &[6]), "header.Version at offset 0: 0x6"),
        (
            "P-384",
            v4(2, &[3]),
            "header.AttestationKeyType at offset 2: 0x3",
        ),
        (
            "an SGX enclave",
            v4(4, &[0]),
            "header.TEEType at offset 4: 0x0",
        ),
        ("an SGX body", v5(48, &[1]), "body.Type at offset 48: 0x1"),
        (
            "TDX 1.0 of another size",
            v5(48, &[2]),
            "body.Size at offset 50: found 0x288, wanted 0x248",
        ),
        (
            "an extended body of another size",
            v5(48, &[4]),
            "body.Size at offset 50: found 0x288, wanted 0x375",
        ),
        (
            "a body one longer",
            v5(50, &[0x89]),
            "body.Size at offset 50: found 0x289, wanted 0x288",
        ),
        (
            "cut in the body",
            V4.quote[..400].to_vec(),
            "body.RTMR0 at offset 376",
        ),
        (
            "cut in the signature",
            V4.quote[..700].to_vec(),
            "SignatureData at offset 636",
        ),
        (
            "one byte more",
            [&V4.quote[..], &[0, 1]].concat(),
            "end at offset",
        ),
        (
            "no enclave's report",
            v4(data + 132, &[5]),
            "CertificationData.Type at offset 764: 0x5",
        ),
        (
            "4 GiB of data",
            v4(data, &[0xff; 4]),
            "SignatureData at offset 636: needs 4294967295",
        ),
        (
            "data longer than its frame",
            v4(data + 134, &[0xff; 4]),
            "CertificationData.Data at offset 770",
        ),
        (
            "an unknown kind",
            v4(data + 138 + 482, &[9]),
            "CertificationData.CertificationData.Type at offset 1252: 0x9",
        ),
    ];
    for (name, bytes, want) in rows {
        let error = Quote::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    // What frames say has to be so to the byte.
    for (at, name) in [
        (data, "signature data"),
        (data + 134, "certification data"),
        (data + 138 + 484, "certificates"),
    ] {
        for change in [1_u32.wrapping_neg(), 1] {
            let bytes = V4.quote[at..at + 4].try_into().unwrap();
            let len = u32::from_le_bytes(bytes).wrapping_add(change);
            let mut quote = v4(at, &len.to_le_bytes());
            quote.extend([0; 8]);
            assert!(Quote::parse(&quote).is_err(), "{name} {change}");
        }
    }
    for cut in 0..V4.quote.len() {
        assert!(Quote::parse(&V4.quote[..cut]).is_err(), "{cut}");
    }
    let longest = [&V4.quote[..], &vec![0; MAX_QUOTE_BYTES - V4.quote.len()]].concat();
    Quote::parse(&longest).unwrap();
    let error = Quote::parse(&[&longest[..], &[0]].concat())
        .unwrap_err()
        .to_string();
    assert!(error.contains("exceeds the limit"), "{error}");
}
