use bailiwick_attestation::{
    crypto::HashAlgorithm,
    tpm::{
        AkPublic, CertifiedKey, CertifiedNv, Credential, EkPublic, PcrValues, Public,
        QualifyingData, Quote, make_credential,
    },
};

use super::{testing::SoftTpm, *};

fn ak(tpm: &Tpm) -> AkPublic {
    AkPublic::new(Public::parse(&tpm.identity().ak_public).unwrap()).unwrap()
}

fn qualifying(byte: u8) -> QualifyingData {
    QualifyingData::new(&[byte; 32]).unwrap()
}

#[tokio::test]
async fn quotes_verify_with_the_values_read_after_them() {
    let soft = SoftTpm::blank();
    for (kind, folder) in [(AkKind::EcdsaP256, "ecdsa"), (AkKind::Rsassa2048, "rsassa")] {
        let mut settings = soft.settings();
        settings.ak = kind;
        settings.keys = soft.path(folder);
        // More than eight registers: the TPM reads at most eight at a time.
        settings.pcrs = (0..=14).collect();
        let tpm = Tpm::open(settings).unwrap();
        let quoted = tpm.quote([7; 32]).await.unwrap();
        let verified = Quote::parse(&quoted.signed.attest)
            .unwrap()
            .verify(&ak(&tpm), &quoted.signed.signature, &qualifying(7))
            .unwrap();
        assert_eq!(verified.clock_info().clock, quoted.clock.clock_ms);
        let mut values = PcrValues::new();
        for (index, value) in &quoted.pcrs {
            values
                .insert(HashAlgorithm::Sha256, (*index).into(), value)
                .unwrap();
        }
        assert_eq!(
            verified.pcrs(&values).unwrap().iter().count(),
            15,
            "{kind:?}"
        );
        let other = Quote::parse(&quoted.signed.attest).unwrap().verify(
            &ak(&tpm),
            &quoted.signed.signature,
            &qualifying(8),
        );
        assert!(other.is_err(), "{kind:?}: another challenge");
    }
}

#[tokio::test]
async fn the_thread_has_ended_when_the_last_handle_is_gone() {
    let soft = SoftTpm::blank();
    for _ in 0..3 {
        let tpm = Tpm::open(soft.settings()).unwrap();
        let thread = tpm
            .call(|_device| Ok(rustix::thread::gettid().as_raw_nonzero()))
            .await
            .unwrap();
        let task = std::path::PathBuf::from(format!("/proc/self/task/{thread}"));
        let other = tpm.clone();
        drop(tpm);
        assert!(task.exists(), "somebody may still ask");
        other.quote([7; 32]).await.unwrap();
        drop(other);
        assert!(
            !task.exists(),
            "what it frees is freed before anybody goes on"
        );
    }
}

#[tokio::test]
async fn what_a_killed_process_left_loaded_keeps_nobody_out() {
    let soft = SoftTpm::blank();
    let made = Tpm::open(soft.settings()).unwrap().identity().clone();
    // This TPM has three slots, and nobody takes what a tool leaves in them.
    for _ in 0..3 {
        let output = std::process::Command::new("tpm2_createprimary")
            .env("TPM2TOOLS_TCTI", soft.settings().tcti.to_string())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    let again = Tpm::open(soft.settings()).unwrap();
    assert_eq!(again.identity().ek_public, made.ek_public);
    assert_eq!(again.identity().ak_name, made.ak_name);
    again.quote([7; 32]).await.unwrap();
}

#[tokio::test]
async fn what_is_remembered_outlives_keys_and_disk() {
    let soft = SoftTpm::blank();
    let tpm = Tpm::open(soft.settings()).unwrap();
    assert_eq!(tpm.remembered(117).await.unwrap(), None, "never written");
    tpm.remember(vec![1; 117]).await.unwrap();
    assert_eq!(tpm.remembered(117).await.unwrap(), Some(vec![1; 117]));
    assert_eq!(tpm.remembered(116).await.unwrap(), None, "another size");
    tpm.remember(vec![2; 117]).await.unwrap();
    drop(tpm);
    // A new disk: the keys are gone, the TPM is the same.
    let mut settings = soft.settings();
    settings.keys = soft.path("new-disk");
    let tpm = Tpm::open(settings).unwrap();
    assert!(!tpm.keys_were_kept());
    assert_eq!(tpm.remembered(117).await.unwrap(), Some(vec![2; 117]));
    tpm.remember(vec![3; 40]).await.unwrap();
    assert_eq!(tpm.remembered(40).await.unwrap(), Some(vec![3; 40]));
    let other = SoftTpm::blank();
    let tpm = Tpm::open(other.settings()).unwrap();
    assert_eq!(tpm.remembered(117).await.unwrap(), None, "another TPM");
}

#[tokio::test]
async fn a_geotag_is_locked_in_and_certified_with_each_statement() {
    let mut soft = SoftTpm::blank();
    for (kind, folder) in [(AkKind::EcdsaP256, "ecdsa"), (AkKind::Rsassa2048, "rsassa")] {
        let mut settings = soft.settings();
        settings.ak = kind;
        settings.keys = soft.path(folder);
        let tpm = Tpm::open(settings).unwrap();
        tpm.provision_geotag(format!("FRA1 {folder}").into_bytes())
            .await
            .unwrap();
        // Nothing may be left loaded: a TPM has three slots.
        for byte in [7, 8, 9, 10] {
            let area = tpm.certify_geotag([byte; 32]).await.unwrap().unwrap();
            let want = format!("FRA1 {folder}").into_bytes();
            assert_eq!(area.contents, Ok(want), "{kind:?}");
            let verify = |public: &[u8], byte| {
                let (attest, signature) = (&area.signed.attest, &area.signed.signature);
                let index = nv::GEOTAG;
                let want = qualifying(byte);
                CertifiedNv::verify(index, public, attest, signature, &ak(&tpm), &want)
                    .map_err(|refused| refused.code())
            };
            assert!(verify(&area.public, byte).is_ok(), "{kind:?}");
            let stale = verify(&area.public, byte + 1);
            assert_eq!(stale, Err("nv-qualifying-data"), "{kind:?}");
            let mut unlocked = area.public.clone();
            // TPMA_NV_WRITELOCKED.
            unlocked[8] ^= 0x08;
            let other = verify(&unlocked, byte);
            assert_eq!(other, Err("nv-name"), "{kind:?}");
        }
        tpm.quote([1; 32]).await.unwrap();
    }
    let tpm = Tpm::open(soft.settings()).unwrap();
    soft.reboot();
    let area = tpm.certify_geotag([1; 32]).await.unwrap().unwrap();
    assert_eq!(area.contents, Ok(b"FRA1 rsassa".to_vec()), "over a reset");
    tpm.provision_geotag(b"FRA2".to_vec()).await.unwrap();
    let area = tpm.certify_geotag([1; 32]).await.unwrap().unwrap();
    assert_eq!(area.contents, Ok(b"FRA2".to_vec()), "renewed");
}

#[tokio::test]
async fn an_area_that_is_not_locked_is_sent_and_not_believed() {
    let soft = SoftTpm::blank();
    let tpm = Tpm::open(soft.settings()).unwrap();
    assert!(tpm.certify_geotag([1; 32]).await.unwrap().is_none(), "none");
    let wide = tpm.provision_geotag(vec![0; 4096]).await.unwrap_err();
    assert!(
        matches!(wide, TpmError::Geotag { found: 4096, .. }),
        "{wide:?}"
    );
    assert!(
        tpm.certify_geotag([1; 32]).await.unwrap().is_none(),
        "still none"
    );

    let write = |device: &mut Device, content: &'static [u8]| {
        device.with_session("write beside", move |session| {
            nv::write(&mut session.context, nv::GEOTAG, content)
        })
    };
    tpm.call(move |device| write(device, b"FRA3"))
        .await
        .unwrap();
    let area = tpm.certify_geotag([1; 32]).await.unwrap().unwrap();
    assert_eq!(area.contents.unwrap_err().code(), "nv-unlocked");
    assert!(!area.signed.attest.is_empty(), "the collector is told");

    tpm.provision_geotag(b"FRA1".to_vec()).await.unwrap();
    let refused = tpm.call(move |device| write(device, b"FRA3")).await;
    assert!(refused.is_err(), "locked for good");
    let area = tpm.certify_geotag([1; 32]).await.unwrap().unwrap();
    assert_eq!(area.contents, Ok(b"FRA1".to_vec()));
}

#[tokio::test]
async fn the_transport_key_is_certified_by_the_ak_and_signs() {
    let soft = SoftTpm::blank();
    let tpm = Tpm::open(soft.settings()).unwrap();
    let signed = tpm.certify_transport([9; 32]).await.unwrap();
    let public = || Public::parse(&tpm.identity().transport_public).unwrap();
    let certified = CertifiedKey::verify(
        public(),
        &signed.attest,
        &signed.signature,
        &ak(&tpm),
        &qualifying(9),
    )
    .unwrap();
    let (x, y) = tpm.identity().transport_point;
    let coordinates = certified.key().coordinates().unwrap();
    assert_eq!(coordinates, (x.as_slice(), y.as_slice()));
    let refused = CertifiedKey::verify(
        Public::parse(&tpm.identity().ak_public).unwrap(),
        &signed.attest,
        &signed.signature,
        &ak(&tpm),
        &qualifying(9),
    );
    assert!(refused.is_err(), "another key");
}

#[tokio::test]
async fn keys_survive_a_restart_and_a_reset_shows() {
    let mut soft = SoftTpm::blank();
    let first = Tpm::open(soft.settings()).unwrap();
    let quoted = first.quote([7; 32]).await.unwrap();
    let identity = first.identity().clone();
    drop(first);

    let second = Tpm::open(soft.settings()).unwrap();
    let kept = Identity {
        kept: true,
        ..identity
    };
    assert_eq!(*second.identity(), kept, "restart of the agent");

    soft.reboot();
    let again = second.quote([8; 32]).await.unwrap();
    assert_eq!(
        again.clock.reset_count,
        quoted.clock.reset_count + 1,
        "the connection is made again after a reset, and the reset shows"
    );

    soft.stop();
    let gone = second.quote([9; 32]).await.unwrap_err();
    assert!(
        matches!(gone, TpmError::Command { .. } | TpmError::Connect { .. }),
        "{gone:?}"
    );
}

#[tokio::test]
async fn key_blobs_of_another_tpm_are_refused_by_name() {
    let (one, other) = (SoftTpm::blank(), SoftTpm::blank());
    drop(Tpm::open(one.settings()).unwrap());
    let mut settings = other.settings();
    settings.keys = one.path("keys");
    let refused = Tpm::open(settings).unwrap_err();
    assert!(
        matches!(refused, TpmError::ForeignKeys { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn endorsement_keys_come_with_their_certificates() {
    let soft = SoftTpm::manufactured();
    let cases = [
        (EkKind::Rsa2048, 1),
        (EkKind::EccP384, 1),
        (EkKind::EccP256, 0),
    ];
    let mut seen = Vec::new();
    for (kind, certificates) in cases {
        let mut settings = soft.settings();
        settings.ek = kind;
        let tpm = Tpm::open(settings).unwrap();
        let identity = tpm.identity();
        assert_eq!(identity.ek_certificates.len(), certificates, "{kind:?}");
        assert!(!seen.contains(&identity.ek_public), "{kind:?}");
        seen.push(identity.ek_public.clone());
    }
}

#[tokio::test]
async fn the_bank_is_the_configured_one() {
    let soft = SoftTpm::manufactured();
    let mut settings = soft.settings();
    settings.bank = Bank::Sha384;
    let tpm = Tpm::open(settings).unwrap();
    let quoted = tpm.quote([1; 32]).await.unwrap();
    assert!(quoted.pcrs.iter().all(|(_, value)| value.len() == 48));
}

#[tokio::test]
async fn only_the_tpm_it_was_made_for_opens_a_credential() {
    let (soft, stranger) = (SoftTpm::blank(), SoftTpm::blank());
    let secret = [5; 32];
    for kind in [EkKind::Rsa2048, EkKind::EccP256, EkKind::EccP384] {
        let open = |soft: &SoftTpm| {
            let mut settings = soft.settings();
            settings.ek = kind;
            Tpm::open(settings).unwrap()
        };
        let tpm = open(&soft);
        let ek = EkPublic::new(Public::parse(&tpm.identity().ek_public).unwrap()).unwrap();
        let credential = make_credential(&ek, ak(&tpm).name(), &secret).unwrap();
        let activate = |tpm: Tpm, credential: &Credential| {
            let (blob, sealed) = (
                credential.id_object.clone(),
                credential.encrypted_secret.clone(),
            );
            async move { tpm.activate(blob, sealed).await }
        };
        let opened = activate(tpm.clone(), &credential).await.unwrap();
        assert_eq!(opened, secret, "{kind:?}");
        // Nothing may be left loaded: a TPM has three slots.
        for _ in 0..4 {
            activate(tpm.clone(), &credential).await.unwrap();
        }

        let other = open(&stranger);
        let refused = activate(other.clone(), &credential).await;
        assert!(refused.is_err(), "{kind:?}: another TPM");
        let for_other_ak = make_credential(&ek, ak(&other).name(), &secret).unwrap();
        let refused = activate(tpm.clone(), &for_other_ak).await;
        assert!(refused.is_err(), "{kind:?}: another AK");
        tpm.quote([1; 32]).await.unwrap();
    }
}

/// A key that somebody left in the TPM speaks for the node: it quotes, certifies, and is what a
/// credential is activated for.
#[tokio::test]
async fn a_key_at_a_persistent_handle_is_the_ak() {
    const HANDLE: u32 = 0x8100_0003;
    let soft = SoftTpm::blank();
    soft.key_at(HANDLE);
    let mut settings = soft.settings();
    settings.ak_handle = Some(HANDLE);
    let tpm = Tpm::open(settings.clone()).unwrap();
    assert!(!tpm.keys_were_kept());
    let ak = ak(&tpm);
    assert_eq!(ak.key().rsa_bits(), Some(2048));
    for byte in [7, 8, 9, 10] {
        let quoted = tpm.quote([byte; 32]).await.unwrap();
        let quote = Quote::parse(&quoted.signed.attest).unwrap();
        quote
            .verify(&ak, &quoted.signed.signature, &qualifying(byte))
            .unwrap();
    }
    let signed = tpm.certify_transport([3; 32]).await.unwrap();
    let transport = Public::parse(&tpm.identity().transport_public).unwrap();
    CertifiedKey::verify(
        transport,
        &signed.attest,
        &signed.signature,
        &ak,
        &qualifying(3),
    )
    .unwrap();
    let ek = EkPublic::new(Public::parse(&tpm.identity().ek_public).unwrap()).unwrap();
    let secret = [5; 32];
    let credential = make_credential(&ek, ak.name(), &secret).unwrap();
    let (blob, sealed) = (credential.id_object, credential.encrypted_secret);
    assert_eq!(tpm.activate(blob, sealed).await.unwrap(), secret);
    drop(tpm);
    // It stays there, whoever opens the TPM.
    let again = Tpm::open(settings.clone()).unwrap();
    assert!(again.keys_were_kept());
    assert_eq!(again.identity().ak_name, ak.name().as_bytes());
    drop(again);
    settings.ak_handle = Some(HANDLE + 1);
    let refused = Tpm::open(settings).unwrap_err();
    assert!(
        refused.to_string().contains("tpm.ak_handle"),
        "{refused}: nothing lies there"
    );
}
