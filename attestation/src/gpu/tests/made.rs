//! A generator of devices in the shape of NVIDIA's, under a root of the test.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _,
};

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::gpu::{Anchors, Device, DeviceRefused, Evidence, Pdi, judge};
use bailiwick_attestation::x509::{Bundle, Certificate};

/// 2026-01-01, when all of it is valid.
pub(crate) const AT: UnixTime = UnixTime::from_secs(1_767_225_600);
/// Common names, leaf first.
pub(crate) const NAMES: [&str; 5] = [
    "GH100 A01 GSP FMC LF",
    "GH100 A01 GSP BROM",
    "NVIDIA GH100 Provisioner ICA 1",
    "NVIDIA GH100 Identity",
    "Test Device Identity CA",
];

/// A chain and all its keys, leaf first.
pub(crate) struct Chain {
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) keys: Vec<KeyPair>,
}

impl Chain {
    /// Its own root is what is trusted.
    pub(crate) fn anchors(&self) -> Anchors {
        Anchors::of(&self.certificates[4..])
    }
}

pub(crate) fn p384() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()
}

pub(crate) fn five_keys() -> Vec<KeyPair> {
    (0..5).map(|_| p384()).collect()
}

pub(crate) fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 10, 17);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    params
}

/// A chain with those keys; `edit` sees what each certificate will say, by its place.
pub(crate) fn chain_of(
    keys: Vec<KeyPair>,
    edit: impl Fn(usize, &mut CertificateParams, &[KeyPair]),
) -> Chain {
    let all: Vec<CertificateParams> = NAMES
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let mut params = params(name, place > 0);
            edit(place, &mut params, &keys);
            params
        })
        .collect();
    let certificates = (0..5).map(|place| {
        let above = (place + 1).min(4);
        let issuer = Issuer::from_params(&all[above], &keys[above]);
        let made = all[place].signed_by(&keys[place], &issuer).unwrap();
        Certificate::parse(made.der()).unwrap()
    });
    Chain {
        certificates: certificates.collect(),
        keys,
    }
}

pub(crate) fn chain(edit: impl Fn(usize, &mut CertificateParams, &[KeyPair])) -> Chain {
    chain_of(five_keys(), edit)
}

/// DER: a tag, a length, the parts one after the other.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut der = vec![tag];
    match u16::try_from(content.len()).unwrap().to_be_bytes() {
        [0, short @ 0..0x80] => der.push(short),
        [0, long] => der.extend([0x81, long]),
        [high, low] => der.extend([0x82, high, low]),
    }
    der.extend(content);
    der
}

/// An object identifier out of its encoded content.
pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    tlv(6, &[content])
}

/// `2.16.840.1.101.3.4.2.2`
pub(crate) const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];

pub(crate) fn fwid(digest: &[u8; 48]) -> Vec<u8> {
    tlv(0x30, &[&oid(SHA384), &tlv(4, &[digest])])
}

/// `CompositeDeviceID`
pub(crate) fn composite(spki: &[u8], digest: &[u8; 48]) -> Vec<u8> {
    tlv(0x30, &[&[2, 1, 1], spki, &fwid(digest)])
}

/// `DiceTcbInfo` as Blackwell has it.
pub(crate) fn tcb_info(digests: &[[u8; 48]], flags: [u8; 4]) -> Vec<u8> {
    let fwids: Vec<u8> = digests.iter().flat_map(fwid).collect();
    tlv(
        0x30,
        &[
            &tlv(0x80, &[b"NVIDIA"]),
            &tlv(0x81, &[b"GB100 A01 GSP"]),
            &tlv(0x83, &[&[1]]),
            &tlv(0xa6, &[&fwids]),
            &tlv(0x87, &[&[0], &flags]),
            &tlv(0x88, &[&[1, 0xc0]]),
        ],
    )
}

pub(crate) const COMPOSITE: [u64; 6] = [2, 23, 133, 5, 4, 1];
pub(crate) const TCB_INFO: [u64; 7] = [2, 23, 133, 5, 4, 1, 1];
/// Digest of the firmware of every device made here.
pub(crate) const FWID: [u8; 48] = [0xf1; 48];
/// What every device made here was asked.
pub(crate) const NONCE: [u8; 32] = [0x9c; 32];

/// What a report says, before it is written.
#[derive(Clone)]
pub(crate) struct Said {
    pub(crate) nonce: [u8; 32],
    pub(crate) blocks: Vec<(u8, Vec<u8>)>,
    pub(crate) opaque: Vec<(u16, Vec<u8>)>,
}

impl Said {
    /// A GH100 under driver 550.
    pub(crate) fn hopper() -> Self {
        Self {
            nonce: NONCE,
            blocks: (1..=64).map(|index| (index, vec![index; 48])).collect(),
            opaque: vec![
                (6, vec![0x00, 0x9f, 0x00, 0x96, 0x01, 0, 0, 0]),
                (14, vec![0xb1, 3, 0, 0]),
                (15, b"882\0\0\0\0\0\0".to_vec()),
                (16, b"0\0\0\0\0".to_vec()),
                (17, b"1010\0".to_vec()),
                (18, b"0200\0".to_vec()),
                (19, vec![0, 0]),
                (3, b"550.90.07\0".to_vec()),
                (4, 0x180_u64.to_le_bytes().to_vec()),
                (12, [1, 0, 0, 0].repeat(64)),
                (13, vec![0, 0xc0, 1, 0]),
                (11, vec![0x55]),
                (20, FWID.to_vec()),
                (21, vec![0x55]),
            ],
        }
    }

    /// A switch.
    pub(crate) fn switch(own: Pdi, gpus: &[Pdi]) -> Self {
        let ports = [&gpus.concat()[..], &[0xff; 64]].concat();
        Self {
            nonce: NONCE,
            blocks: (1..=31).map(|index| (index, vec![index; 48])).collect(),
            opaque: vec![
                (6, b"96.10.73.00.01".to_vec()),
                (22, own.to_vec()),
                (26, ports),
                (23, vec![0xec, 0]),
                (24, vec![2, 0]),
                (25, vec![1, 0]),
            ],
        }
    }

    /// The same, with that entry set or added.
    pub(crate) fn with(mut self, kind: u16, value: &[u8]) -> Self {
        match self.opaque.iter_mut().find(|(own, _)| *own == kind) {
            Some((_, own)) => *own = value.to_vec(),
            None => self.opaque.push((kind, value.to_vec())),
        }
        self
    }

    /// The same, without those entries.
    pub(crate) fn without(mut self, kinds: &[u16]) -> Self {
        self.opaque.retain(|(own, _)| !kinds.contains(own));
        self
    }

    /// Request and response up to the signature.
    pub(crate) fn unsigned(&self) -> Vec<u8> {
        let mut record = Vec::new();
        for (index, value) in &self.blocks {
            let len = u16::try_from(value.len()).unwrap();
            record.extend([*index, 1]);
            record.extend((len + 3).to_le_bytes());
            record.push(1);
            record.extend(len.to_le_bytes());
            record.extend(value);
        }
        let mut opaque = Vec::new();
        for (kind, value) in &self.opaque {
            opaque.extend(kind.to_le_bytes());
            opaque.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
            opaque.extend(value);
        }
        let mut bytes = vec![0x11, 0xe0, 1, 0xff];
        bytes.extend(self.nonce);
        bytes.push(0);
        bytes.extend([0x11, 0x60, 0, 0, u8::try_from(self.blocks.len()).unwrap()]);
        bytes.extend(&u32::try_from(record.len()).unwrap().to_le_bytes()[..3]);
        bytes.extend(record);
        bytes.extend([0x5e; 32]);
        bytes.extend(u16::try_from(opaque.len()).unwrap().to_le_bytes());
        bytes.extend(opaque);
        bytes
    }

    pub(crate) fn signed(&self, key: &KeyPair) -> Vec<u8> {
        sign(self.unsigned(), key)
    }
}

/// The bytes, and the signature over them as reports have it.
pub(crate) fn sign(mut bytes: Vec<u8>, key: &KeyPair) -> Vec<u8> {
    let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der()).unwrap();
    let signature = pair.sign(&SystemRandom::new(), &bytes).unwrap();
    bytes.extend(signature.as_ref());
    bytes
}

/// One whole device.
pub(crate) struct Made {
    pub(crate) chain: Chain,
    pub(crate) bundle: Bundle,
    pub(crate) report: Vec<u8>,
}

impl Made {
    pub(crate) fn evidence(&self) -> Evidence<'_> {
        Evidence {
            report: &self.report,
            chain: Some(&self.bundle),
            stated_nonce: None,
        }
    }

    pub(crate) fn judged(&self, anchors: &Anchors) -> Device<'_> {
        judge(self.evidence(), anchors, Some(NONCE), AT)
    }

    /// Codes of all that is wrong with it.
    pub(crate) fn wrong(&self) -> Vec<&'static str> {
        let judged = self.judged(&self.chain.anchors());
        judged.refused.iter().map(DeviceRefused::code).collect()
    }
}

/// A device of that chip, as `Hopper` and the switches certify it.
pub(crate) fn device_of(keys: Vec<KeyPair>, chip: &str, pdi: Pdi, said: &Said) -> Made {
    device_with(keys, chip, pdi, said, |chip_spki| {
        vec![CustomExtension::from_oid_content(
            &COMPOSITE,
            composite(chip_spki, &FWID),
        )]
    })
}

/// A device whose leaf has those extensions.
pub(crate) fn device_with(
    keys: Vec<KeyPair>,
    chip: &str,
    pdi: Pdi,
    said: &Said,
    extensions: impl Fn(&[u8]) -> Vec<CustomExtension>,
) -> Made {
    let chain = chain_of(keys, |place, params, keys| match place {
        0 => params.custom_extensions = extensions(&keys[1].subject_public_key_info()),
        1 => {
            let name = format!("{chip} A01 GSP BROM");
            params.distinguished_name = rcgen::DistinguishedName::new();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            let prefix = if chip == "LS_10" { 0x50 } else { 0x41 };
            let serial = [&[prefix], &pdi[..]].concat();
            params.serial_number = Some(serial.into());
        }
        _ => {}
    });
    let bundle = Bundle {
        certificates: chain.certificates.clone(),
        unreadable: Vec::new(),
    };
    let report = said.signed(&chain.keys[0]);
    Made {
        chain,
        bundle,
        report,
    }
}

/// A GH100 with keys of its own.
pub(crate) fn hopper(said: &Said) -> Made {
    device_of(five_keys(), "GH100", [1, 2, 3, 4, 5, 6, 7, 8], said)
}
