use super::*;

const NONCE: &[u8] = b"a nonce of the collector's, once";
const ZERO: [u8; 32] = [0; 32];
const SEVEN: [u8; 32] = [7; 32];

/// A quote over SHA-256 PCRs 0 and 7.
fn good() -> Vec<u8> {
    let info = quote_info(&[(HashAlgorithm::Sha256, 0x81)], &[&ZERO, &SEVEN]);
    attest(QUOTE, NONCE, &info)
}

fn values(pairs: &[(u32, [u8; 32])]) -> PcrValues {
    let mut values = PcrValues::new();
    for (index, value) in pairs {
        values.insert(HashAlgorithm::Sha256, *index, value).unwrap();
    }
    values
}

/// The code of the refusal, or `ok`.
fn outcome(ak: &AkPublic, bytes: &[u8], signature: &[u8], nonce: &[u8]) -> &'static str {
    let verified =
        Quote::parse(bytes).and_then(|quote| quote.verify(ak, signature, &qualifying(nonce)));
    verified.map_or_else(|refused| refused.code(), |_| "ok")
}

#[test]
fn a_quote_is_accepted_and_its_neighbours_are_refused() {
    let key = SoftKey::new();
    let (ak, quote) = (key.ak(), good());
    let signature = key.sign(&quote);
    let stranger = SoftKey::new();

    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let longer = [&quote[..], &[0]].concat();
    let long_signature = [&signature[..], &[0]].concat();
    let other_scheme = flipped(&signature, 1);
    let other_hash = [&[0x00, 0x18, 0x00, 0x0c], &signature[4..]].concat();
    let last = quote.len() - 1;
    type Row<'a> = (&'a str, &'a [u8], &'a [u8], &'a [u8], &'a str);
    let cases: &[Row<'_>] = &[
        ("good", &quote, &signature, NONCE, "ok"),
        (
            "bit of the clock",
            &flipped(&quote, 50),
            &signature,
            NONCE,
            "signature",
        ),
        (
            "bit of the digest",
            &flipped(&quote, last),
            &signature,
            NONCE,
            "signature",
        ),
        (
            "one byte short",
            &quote[..last],
            &signature,
            NONCE,
            "malformed",
        ),
        ("one byte long", &longer, &signature, NONCE, "malformed"),
        ("empty", &[], &signature, NONCE, "malformed"),
        (
            "another signer",
            &quote,
            &stranger.sign(&quote),
            NONCE,
            "signature",
        ),
        (
            "bit of the signature",
            &quote,
            &flipped(&signature, 40),
            NONCE,
            "signature",
        ),
        (
            "signature one short",
            &quote,
            &signature[..71],
            NONCE,
            "malformed",
        ),
        (
            "signature one long",
            &quote,
            &long_signature,
            NONCE,
            "malformed",
        ),
        (
            "signature of another scheme",
            &quote,
            &other_scheme,
            NONCE,
            "malformed",
        ),
        (
            "signature of another hash",
            &quote,
            &other_hash,
            NONCE,
            "signature-scheme",
        ),
        ("another nonce", &quote, &signature, b"another", "nonce"),
        (
            "the nonce and a zero",
            &quote,
            &signature,
            &[NONCE, &[0]].concat(),
            "nonce",
        ),
        (
            "a prefix of the nonce",
            &quote,
            &signature,
            &NONCE[..31],
            "nonce",
        ),
        ("no nonce", &quote, &signature, &[], "nonce"),
    ];
    for (name, bytes, signature, nonce, want) in cases {
        assert_eq!(outcome(&ak, bytes, signature, nonce), *want, "{name}");
    }
    assert_eq!(
        outcome(&stranger.ak(), &quote, &signature, NONCE),
        "signature",
        "another AK"
    );
}

#[test]
fn a_signature_of_the_ak_makes_no_quote_of_something_else() {
    let key = SoftKey::new();
    let time = [&5000u64.to_be_bytes()[..], &[0; 17], &[0; 8]].concat();
    let certify = certify_info(key.ak().name().as_bytes());
    let nothing = quote_info(&[], &[]);
    let no_register = quote_info(&[(HashAlgorithm::Sha256, 0)], &[]);
    let mut forged = good();
    forged[3] ^= 1;
    for (name, bytes, want) in [
        ("certify", attest(CERTIFY, NONCE, &certify), "type"),
        ("time", attest(TIME, NONCE, &time), "type"),
        ("no such type", attest(0x8012, NONCE, &[]), "malformed"),
        ("no bank", attest(QUOTE, NONCE, &nothing), "empty-selection"),
        (
            "a bank without a register",
            attest(QUOTE, NONCE, &no_register),
            "empty-selection",
        ),
        ("not made by a TPM", forged, "malformed"),
    ] {
        assert_eq!(
            outcome(&key.ak(), &bytes, &key.sign(&bytes), NONCE),
            want,
            "{name}"
        );
    }
}

#[test]
fn pcr_values_have_the_labels_the_tpm_signed() {
    let key = SoftKey::new();
    let quote = good();
    let parsed = Quote::parse(&quote).unwrap();
    let verified = parsed
        .verify(&key.ak(), &key.sign(&quote), &qualifying(NONCE))
        .unwrap();
    let code = |pairs: &[(u32, [u8; 32])]| {
        let bound = verified.pcrs(&values(pairs));
        bound.map_or_else(|refused| refused.code(), |_| "ok")
    };
    for (name, pairs, want) in [
        ("as quoted", vec![(0, ZERO), (7, SEVEN)], "ok"),
        (
            "with another that is not quoted",
            vec![(0, ZERO), (7, SEVEN), (10, SEVEN)],
            "ok",
        ),
        ("exchanged", vec![(0, SEVEN), (7, ZERO)], "pcr-digest"),
        ("one differs", vec![(0, ZERO), (7, ZERO)], "pcr-digest"),
        ("one is missing", vec![(0, ZERO)], "pcr-missing"),
        ("relabelled", vec![(16, ZERO), (23, SEVEN)], "pcr-missing"),
        ("one relabelled", vec![(0, ZERO), (8, SEVEN)], "pcr-missing"),
        ("none", vec![], "pcr-missing"),
    ] {
        assert_eq!(code(&pairs), want, "{name}");
    }
    let bound = verified
        .pcrs(&values(&[(0, ZERO), (7, SEVEN), (10, SEVEN)]))
        .unwrap();
    let labels: Vec<u8> = bound.iter().map(|(_, index, _)| index).collect();
    assert_eq!(labels, [0, 7], "what was not quoted is left out");
    assert_eq!(
        bound.get(HashAlgorithm::Sha256, 7).unwrap().as_slice(),
        SEVEN
    );
    assert_eq!(bound.get(HashAlgorithm::Sha256, 10), None);
    assert_eq!(bound.get(HashAlgorithm::Sha384, 7), None);

    // For whoever has no key, the same comparison without the same worth.
    let unverified = Quote::parse(&quote).unwrap();
    let compare = |pairs: &[(u32, [u8; 32])]| {
        let compared = unverified.compare(HashAlgorithm::Sha256, &values(pairs));
        compared.map_or_else(|refused| refused.code(), |()| "ok")
    };
    assert_eq!(compare(&[(0, ZERO), (7, SEVEN)]), "ok");
    assert_eq!(compare(&[(0, SEVEN), (7, ZERO)]), "pcr-digest");
}

#[test]
fn a_quote_over_resettable_registers_is_never_one_over_others() {
    let key = SoftKey::new();
    let info = quote_info(
        &[(HashAlgorithm::Sha256, 1 << 16 | 1 << 23)],
        &[&ZERO, &SEVEN],
    );
    let quote = attest(QUOTE, NONCE, &info);
    let verified = Quote::parse(&quote)
        .unwrap()
        .verify(&key.ak(), &key.sign(&quote), &qualifying(NONCE))
        .unwrap();
    let refused = verified
        .pcrs(&values(&[(0, ZERO), (10, SEVEN)]))
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the quote covers sha256 PCR 16, for which no value was given"
    );
    assert!(!verified.selection().contains(HashAlgorithm::Sha256, 0));
}

#[test]
fn banks_are_hashed_in_signed_order_with_the_hash_of_the_signature() {
    let key = SoftKey::new();
    let wide = [9; 48];
    let banks = [(HashAlgorithm::Sha384, 0x80), (HashAlgorithm::Sha256, 0x80)];
    let mut both = values(&[(7, SEVEN)]);
    both.insert(HashAlgorithm::Sha384, 7, &wide).unwrap();
    for (name, order, want) in [
        ("signed order", [&wide[..], &SEVEN[..]], "ok"),
        (
            "order of the algorithms",
            [&SEVEN[..], &wide[..]],
            "pcr-digest",
        ),
    ] {
        let quote = attest(QUOTE, NONCE, &quote_info(&banks, &order));
        let verified = Quote::parse(&quote)
            .unwrap()
            .verify(&key.ak(), &key.sign(&quote), &qualifying(NONCE))
            .unwrap();
        let bound = verified.pcrs(&both);
        assert_eq!(
            bound.map_or_else(|refused| refused.code(), |_| "ok"),
            want,
            "{name}"
        );
    }
}

#[test]
fn malformed_quotes_say_where() {
    let good = good();
    for (name, bytes, want) in [
        (
            "empty",
            vec![],
            "malformed attestation: TPMS_ATTEST.magic at offset 0: needs 4 bytes, 0 left",
        ),
        (
            "not made by a TPM",
            vec![0, 0, 0, 1],
            "malformed attestation: TPMS_ATTEST.magic at offset 0: found 0x1, wanted 0xff544347",
        ),
        (
            "long extraData",
            attest(QUOTE, &[0; 67], &[]),
            "malformed attestation: TPMS_ATTEST.extraData.size at offset 10: \
             67 exceeds the limit of 66",
        ),
        (
            "seventeen banks",
            attest(QUOTE, &[], &17u32.to_be_bytes()),
            "malformed attestation: TPMS_ATTEST.attested.quote.pcrSelect at offset 37: \
             17 exceeds the limit of 16",
        ),
        (
            "four billion banks",
            attest(QUOTE, &[], &[0xff; 4]),
            "malformed attestation: TPMS_ATTEST.attested.quote.pcrSelect at offset 37: \
             4294967295 exceeds the limit of 16",
        ),
        (
            "five bytes of bitmap",
            attest(QUOTE, &[], &[0, 0, 0, 1, 0, 11, 5, 0, 0, 0, 0, 0]),
            "malformed attestation: TPMS_ATTEST.pcrSelections.sizeofSelect at offset 43: \
             5 exceeds the limit of 4",
        ),
        (
            "one byte more",
            [&good[..], &[0]].concat(),
            "malformed attestation: TPMS_ATTEST.end at offset 113: 1 bytes too many",
        ),
    ] {
        let refused = Quote::parse(&bytes).unwrap_err();
        assert_eq!(chain(&refused), want, "{name}");
    }
}

#[test]
fn safe_is_yes_or_no() {
    let mut quote = good();
    let at = 4 + 2 + 4 + 2 + NONCE.len() + 16;
    assert_eq!(quote[at], 1);
    quote[at] = 2;
    let refused = Quote::parse(&quote).unwrap_err();
    assert!(chain(&refused).contains("clockInfo.safe"), "{refused}");
    quote[at] = 0;
    assert!(!Quote::parse(&quote).unwrap().attest().clock_info.safe);
}

#[test]
fn the_clock_and_the_firmware_are_what_was_signed() {
    let key = SoftKey::new();
    let quote = good();
    let verified = Quote::parse(&quote)
        .unwrap()
        .verify(&key.ak(), &key.sign(&quote), &qualifying(NONCE))
        .unwrap();
    let want = ClockInfo {
        clock: 5000,
        reset_count: 7,
        restart_count: 2,
        safe: true,
    };
    assert_eq!(verified.clock_info(), want);
    assert_eq!(verified.firmware_version(), 0x2019_1023_0016_3636);
}

#[test]
fn a_length_in_front_is_read_only_where_it_is_right() {
    let good = good();
    let framed = sized(&good);
    assert_eq!(Attest::parse_either(&good).unwrap().signed, good);
    assert_eq!(Attest::parse_either(&framed).unwrap().signed, good);
    let short = &framed[..framed.len() - 1];
    let long = [&framed[..], &[0]].concat();
    for (name, bytes, want) in [
        (
            "one short",
            short,
            "TPM2B_ATTEST.buffer at offset 2: needs 113 bytes, 112 left",
        ),
        (
            "one long",
            &long[..],
            "TPM2B_ATTEST.end at offset 115: 1 bytes too many",
        ),
    ] {
        assert_eq!(
            Attest::parse_either(bytes).unwrap_err().to_string(),
            want,
            "{name}"
        );
    }
}
