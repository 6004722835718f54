//! Made contents of the index: what is read, what is refused and where, and what a processor's report
//! has to bind of them.

use std::sync::LazyLock;

use super::*;
use crate::cvm::snp::tests::{Made, made, milan};
use crate::cvm::{Asked, Endorsements, Judged, Keys, judge};
use crate::fixture::SoftTpm;
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::Certificate;

const AT: UnixTime = UnixTime(1_750_000_000_000);
const QUESTION: [u8; 64] = [5; 64];
/// `IgvmAttestReportType`
const SNP: u32 = 2;
const TDX: u32 = 4;

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));
static AK_KEY: LazyLock<PublicKey> = LazyLock::new(|| SoftTpm::rsa().ak().key().clone());

/// A JWK as the paravisor writes one.
fn jwk(kid: &str, operation: &str, key: &PublicKey) -> String {
    let PublicKey::Rsa { modulus, exponent } = key else {
        panic!("not RSA");
    };
    let [n, e] = [modulus, exponent].map(|number| URL_SAFE_NO_PAD.encode(number));
    format!(r#"{{"kid":"{kid}","key_ops":["{operation}"],"kty":"RSA","e":"{e}","n":"{n}"}}"#)
}

/// The text about a TPM with this AK, made for this question.
pub(crate) fn text(ak: &PublicKey, question: &[u8]) -> String {
    let (ak, ek) = (jwk(AK, "sign", ak), jwk("HCLEkPub", "encrypt", ak));
    let vm = r#"{"console-enabled":true,"secure-boot":true,"vmUniqueId":"68DC0AC0"}"#;
    let question = hex::encode_upper(question);
    format!(r#"{{"keys":[{ak},{ek}],"vm-configuration":{vm},"user-data":"{question}"}}"#)
}

/// The content of the index around a report of that kind and a text.
pub(crate) fn content(report: &[u8], kind: u32, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    let mut out = b"HCLA".to_vec();
    for word in [1_u32, 1216 + 20 + length, 2, 0, 0, 0, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend(report);
    out.resize(1216, 0);
    for word in [20 + length, 1, kind, 1, length] {
        out.extend(word.to_le_bytes());
    }
    out.extend(text);
    out.resize(out.len().max(2600), 0);
    out
}

/// Report data that bind a text.
pub(crate) fn binding(text: &[u8]) -> [u8; 64] {
    let mut data = [0; 64];
    data[..32].copy_from_slice(Sha256Digest::of(&[text]).as_bytes());
    data
}

fn ordinary() -> Vec<u8> {
    content(&MILAN.report, SNP, text(&AK_KEY, &QUESTION).as_bytes())
}

#[test]
fn the_content_of_the_index_is_read() {
    let bytes = ordinary();
    let hcl = HclReport::parse(&bytes).unwrap();
    let text = text(&AK_KEY, &QUESTION);
    assert_eq!(hcl.hardware, Hardware::SevSnp(MILAN.report.as_slice()));
    assert_eq!(hcl.runtime, text.as_bytes());
    assert_eq!(hcl.report_data(), binding(text.as_bytes()));
    let runtime = hcl.runtime().unwrap();
    assert_eq!(runtime.ak, *AK_KEY);
    assert_eq!(runtime.question, Some(QUESTION));
    assert_eq!(runtime.vm.as_deref(), Some("68DC0AC0"));
    // Other hashes fill more of it; capabilities stand before the text since version 2.
    let mut newer = bytes;
    newer[4] = 2;
    newer[1220] = 2;
    newer[1216..1220].copy_from_slice(&(24 + u32::try_from(text.len()).unwrap()).to_le_bytes());
    newer[1228] = 3;
    newer.splice(1236..1236, [7, 0, 0, 0]);
    let hcl = HclReport::parse(&newer).unwrap();
    assert_eq!(hcl.runtime, text.as_bytes());
    let digest = HashAlgorithm::Sha512.digest(&[text.as_bytes()]).unwrap();
    assert_eq!(hcl.report_data(), digest.as_slice());
}

#[test]
fn malformed_contents_say_where() {
    let put = |at: usize, with: &[u8]| {
        let mut bytes = ordinary();
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let length = u32::try_from(text(&AK_KEY, &QUESTION).len()).unwrap();
    let short = |bytes: Vec<u8>, to: usize| bytes[..to].to_vec();
    let mut padded = ordinary();
    *padded.last_mut().unwrap() = 1;
    let end = padded.len() - 1;
    let mut td = content(&[0; 1024], TDX, b"{}");
    td[32 + 1024] = 1;
    let rows = [
        ("empty", Vec::new(), "header.signature at offset 0: needs 4 bytes, 0 left".to_owned()),
        (
            "another magic",
            put(0, b"HCLB"),
            "header.signature at offset 0: found 0x424c4348, wanted 0x414c4348".to_owned(),
        ),
        (
            "a version to come",
            put(4, &[3]),
            "header.version at offset 4: 0x3 is not a value this field may hold".to_owned(),
        ),
        (
            "cut in the report",
            short(ordinary(), 1000),
            "attestation_report at offset 32: needs 1184 bytes, 968 left".to_owned(),
        ),
        (
            "request data to come",
            put(1220, &[9]),
            "request_data.version at offset 1220: 0x9 is not a value this field may hold".to_owned(),
        ),
        (
            "a hash that is none",
            put(1228, &[0]),
            "request_data.report_data_hash_type at offset 1228: 0x0 is not a value this field may hold"
                .to_owned(),
        ),
        (
            "a text longer than the index",
            put(1232, &(length + 8000).to_le_bytes()),
            format!(
                "request_data.variable_data_size at offset 1232: {} exceeds the limit of 8192",
                length + 8000
            ),
        ),
        (
            "sizes at odds",
            put(1232, &(length + 1).to_le_bytes()),
            format!(
                "request_data.data_size at offset 1216: found {:#x}, wanted {:#x}",
                length + 20,
                length + 21
            ),
        ),
        (
            "capabilities where no version has any",
            put(1216, &(length + 24).to_le_bytes()),
            format!(
                "request_data.data_size at offset 1216: found {:#x}, wanted {:#x}",
                length + 24,
                length + 20
            ),
        ),
        (
            "cut in the text",
            short(ordinary(), 1240),
            format!("runtime_claims at offset 1236: needs {length} bytes, 4 left"),
        ),
        (
            "something behind the text",
            padded,
            format!("padding at offset {end}: is not zero"),
        ),
        (
            "something behind a TD report",
            td,
            "TDREPORT_STRUCT.padding at offset 1024: is not zero".to_owned(),
        ),
        (
            "longer than any",
            [ordinary(), vec![0; MAX_HCL_BYTES]].concat(),
            format!("report at offset 0: {} exceeds the limit of 16384", 2600 + 16384),
        ),
    ];
    for (name, bytes, want) in rows {
        let found = HclReport::parse(&bytes).unwrap_err().to_string();
        let want = match want.starts_with("TDREPORT") {
            true => want,
            false => format!("HCL_ATTESTATION_REPORT.{want}"),
        };
        assert_eq!(found, want, "{name}");
    }
}

#[test]
fn what_is_just_as_long_as_may_be_is_read() {
    let refused = |bytes: &[u8]| HclReport::parse(bytes).unwrap_err().to_string();
    let padded = |length: usize| {
        let mut text = text(&AK_KEY, &QUESTION).into_bytes();
        text.resize(length, b' ');
        content(&MILAN.report, SNP, &text)
    };
    let longest = padded(MAX_RUNTIME_BYTES);
    let hcl = HclReport::parse(&longest).unwrap();
    assert_eq!(hcl.runtime.len(), MAX_RUNTIME_BYTES);
    assert_eq!(hcl.runtime().unwrap().ak, *AK_KEY);
    let longer = refused(&padded(MAX_RUNTIME_BYTES + 1));
    assert!(longer.ends_with("exceeds the limit of 8192"), "{longer}");

    let mut whole = ordinary();
    whole.resize(MAX_HCL_BYTES, 0);
    assert!(HclReport::parse(&whole).is_ok());
    whole.push(0);
    let longer = refused(&whole);
    assert!(longer.ends_with("exceeds the limit of 16384"), "{longer}");

    let PublicKey::Rsa { modulus, .. } = &*AK_KEY else {
        panic!("not RSA");
    };
    let key = PublicKey::rsa(modulus, &[1; MAX_EXPONENT]);
    let bytes = content(&MILAN.report, SNP, text(&key, &QUESTION).as_bytes());
    assert_eq!(HclReport::parse(&bytes).unwrap().runtime().unwrap().ak, key);
}

#[test]
fn a_text_says_one_thing_in_one_way() {
    let good = text(&AK_KEY, &QUESTION);
    let ak = jwk(AK, "sign", &AK_KEY);
    let PublicKey::Rsa { modulus, .. } = &*AK_KEY else {
        panic!("not RSA");
    };
    let n = URL_SAFE_NO_PAD.encode(modulus);
    let zero = URL_SAFE_NO_PAD.encode([&[0][..], modulus].concat());
    let small = URL_SAFE_NO_PAD.encode(&modulus[..255]);
    let large = URL_SAFE_NO_PAD.encode([&modulus[..], &modulus[..], &[1]].concat());
    let key = |old: &str, new: &str| good.replacen(&ak, &ak.replacen(old, new, 1), 1);
    let rows: [(&str, String, &str); 19] = [
        (
            "no JSON",
            "{".to_owned(),
            "text at offset 1236: not the JSON expected",
        ),
        (
            "another type",
            "[]".to_owned(),
            "text at offset 1237: not the JSON expected",
        ),
        (
            "something behind",
            format!("{good}{{}}"),
            "not the JSON expected",
        ),
        (
            "keys twice",
            good.replacen("\"user-data\"", "\"keys\":[],\"user-data\"", 1),
            "duplicate field `keys`",
        ),
        (
            "a question twice",
            good.replacen("{\"keys\"", "{\"user-d\\u0061ta\":\"\",\"keys\"", 1),
            "duplicate field `user-data`",
        ),
        (
            "a modulus twice",
            key("\"n\":", &format!("\"n\":\"{n}\",\"n\":")),
            "duplicate field `n`",
        ),
        (
            "a name twice",
            key("\"kid\"", "\"kid\":\"HCLEkPub\",\"kid\""),
            "duplicate field `kid`",
        ),
        (
            "two AKs",
            good.replacen("HCLEkPub", "HCLAkPub", 1),
            "keys at offset 1236: hold HCLAkPub twice",
        ),
        (
            "no AK",
            good.replacen("HCLAkPub", "HCLAkPuc", 1),
            "keys at offset 1236: hold no HCLAkPub",
        ),
        (
            "of another kind",
            key("\"RSA\"", "\"EC\""),
            "keys.kty at offset 1236: is not RSA",
        ),
        (
            "for encryption",
            key("[\"sign\"]", "[\"encrypt\"]"),
            "keys.key_ops at offset 1236: is not sign alone",
        ),
        (
            "for both",
            key("[\"sign\"]", "[\"sign\",\"encrypt\"]"),
            "keys.key_ops at offset 1236: is not sign alone",
        ),
        (
            "a leading zero",
            key(&n, &zero),
            "keys.n at offset 1236: begins with a zero",
        ),
        (
            "padded",
            key(&n, &format!("{n}=")),
            "keys.n at offset 1236: is not base64url without padding",
        ),
        (
            "no modulus",
            key(&n, ""),
            "keys.n at offset 1236: is absent",
        ),
        (
            "2040 bits",
            key(&n, &small),
            "keys.n at offset 1236: has not 2048 to 4096 bits",
        ),
        (
            "4104 bits",
            key(&n, &large),
            "keys.n at offset 1236: has not 2048 to 4096 bits",
        ),
        (
            "an exponent like a modulus",
            key("\"AQAB\"", &format!("\"{n}\"")),
            "keys.e at offset 1236: is longer than the exponent of any TPM",
        ),
        (
            "half a question",
            text(&AK_KEY, &QUESTION[..32]),
            "user-data at offset 1236: is not 128 hexadecimal digits",
        ),
    ];
    for (name, text, want) in rows {
        let bytes = content(&MILAN.report, SNP, text.as_bytes());
        let hcl = HclReport::parse(&bytes).unwrap();
        let found = hcl.runtime().unwrap_err().to_string();
        assert!(found.starts_with("RuntimeClaims."), "{name}: {found}");
        assert!(found.contains(want), "{name}: {found}");
    }
    // What nobody reads may change, and a text may have no place for a question.
    let other = good.replacen("\"secure-boot\":true", "\"next-year\":[{}]", 1);
    let none = text(&AK_KEY, &[]);
    for (name, text, question) in [("settings", other, Some(QUESTION)), ("none", none, None)] {
        let bytes = content(&MILAN.report, SNP, text.as_bytes());
        let runtime = HclReport::parse(&bytes).unwrap().runtime().unwrap();
        assert_eq!(
            (runtime.ak, runtime.question),
            (AK_KEY.clone(), question),
            "{name}"
        );
    }
}

/// What one judgement takes, each part of which a row may spoil.
struct Scene {
    text: String,
    /// Put over the report before it is signed.
    over: Vec<(usize, Vec<u8>)>,
    /// What the report binds instead of the text.
    data: Option<[u8; 64]>,
    kind: u32,
    /// Changes the content after all is signed.
    edit: fn(&mut Vec<u8>),
    ak: PublicKey,
    question: [u8; 64],
}

impl Scene {
    fn new() -> Self {
        Self {
            text: text(&AK_KEY, &QUESTION),
            over: Vec::new(),
            data: None,
            kind: SNP,
            edit: |_| {},
            ak: AK_KEY.clone(),
            question: QUESTION,
        }
    }

    fn judge(&self) -> Judged {
        let data = self.data.unwrap_or_else(|| binding(self.text.as_bytes()));
        let mut over: Vec<(usize, &[u8])> = vec![(0x50, &data)];
        over.extend(self.over.iter().map(|(at, what)| (*at, what.as_slice())));
        let report = match self.kind {
            TDX => [&[0; TD_REPORT_DATA][..], &data, &[0; 832]].concat(),
            _ => MILAN.report_with(&over),
        };
        let mut bytes = content(&report, self.kind, self.text.as_bytes());
        (self.edit)(&mut bytes);
        let hardware = [(milan().product, MILAN.root_key())];
        let mut endorsements = Endorsements::default().where_hardware_is(&hardware, "");
        let all = [&MILAN.key, &MILAN.ask, &MILAN.root].map(Certificate::clone);
        assert!(endorsements.add_certificates(Sha256Digest([1; 32]), all.to_vec()));
        judge(&Asked {
            kind: "azure-vtpm",
            report: &bytes,
            table: &[],
            report_data: &self.question,
            manifest: &[],
            tpm: Some(Keys {
                ak: &self.ak,
                ek: &Sha256Digest([2; 32]),
            }),
            endorsements: &endorsements,
            crls: &[],
            roots: &[],
            at: AT,
        })
    }
}

#[test]
fn a_paravisor_speaks_for_its_tpm_and_each_forgery_is_refused() {
    type Row = (
        &'static str,
        fn(&mut Scene),
        &'static [(&'static str, bool)],
    );
    let rows: &[Row] = &[
        ("as it is", |_| {}, &[]),
        (
            "of another TPM",
            |s| s.ak = SoftTpm::rsa().ak().key().clone(),
            &[("cvm-vtpm-ak", true)],
        ),
        (
            "of a TPM with an AK of another kind",
            |s| s.ak = SoftTpm::new().ak().key().clone(),
            &[("cvm-vtpm-ak", true)],
        ),
        (
            "its AK changed by a byte",
            |s| {
                s.edit = |bytes| {
                    let text = String::from_utf8(bytes[1236..].to_vec()).unwrap();
                    let at = 1236 + text.find("\"n\"").unwrap() + 40;
                    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                }
            },
            &[("cvm-runtime-data", true), ("cvm-vtpm-ak", true)],
        ),
        (
            "its text changed where nobody reads",
            |s| {
                s.edit = |bytes| {
                    let text = String::from_utf8(bytes[1236..].to_vec()).unwrap();
                    let at = 1236 + text.find("68DC").unwrap();
                    bytes[at] = b'7';
                }
            },
            &[("cvm-runtime-data", true)],
        ),
        (
            "a genuine report beside another text",
            |s| s.data = Some(binding(text(&AK_KEY, &[6; 64]).as_bytes())),
            &[("cvm-runtime-data", true)],
        ),
        (
            "data behind the hash",
            |s| {
                let mut data = binding(s.text.as_bytes());
                data[63] = 1;
                s.data = Some(data);
            },
            &[("cvm-runtime-data", true)],
        ),
        (
            "its data changed to fit",
            |s| s.edit = |bytes| bytes[32 + 0x50] ^= 1,
            &[("cvm-signature", true), ("cvm-runtime-data", true)],
        ),
        (
            "asked for by the guest below",
            |s| s.over.push((0x30, vec![2])),
            &[("cvm-vtpm-level", true)],
        ),
        (
            "asked for by the host",
            |s| s.over.push((0x30, vec![0xff; 4])),
            &[("cvm-not-of-guest", true), ("cvm-vtpm-level", true)],
        ),
        (
            "a text that names two AKs",
            |s| s.text = s.text.replacen("HCLEkPub", "HCLAkPub", 1),
            &[("cvm-malformed", true)],
        ),
        (
            "hashed as if by SHA-384",
            |s| s.edit = |bytes| bytes[1228] = 2,
            &[("cvm-runtime-data", true)],
        ),
        (
            "under newer firmware",
            |s| s.over.push((0x187, vec![214])),
            &[("cvm-key-missing", false)],
        ),
        (
            "a TD report, which nobody else can check",
            |s| s.kind = TDX,
            &[("cvm-quote-missing", false)],
        ),
        (
            "a TD report beside another text",
            |s| {
                s.kind = TDX;
                s.data = Some([9; 64]);
            },
            &[("cvm-quote-missing", false), ("cvm-runtime-data", true)],
        ),
        (
            "a VM without such a processor",
            |s| s.kind = 3,
            &[("cvm-missing", true)],
        ),
        (
            "a hypervisor's word",
            |s| s.kind = 1,
            &[("cvm-kind", false)],
        ),
        (
            "a report inside that is none",
            |s| s.edit = |bytes| bytes[32] = 9,
            &[("cvm-malformed", true)],
        ),
        (
            "cut short",
            |s| s.edit = |bytes| bytes.truncate(1300),
            &[("cvm-malformed", true)],
        ),
    ];
    for (name, edit, want) in rows {
        let mut scene = Scene::new();
        edit(&mut scene);
        let judged = scene.judge();
        let faults: Vec<_> = judged
            .faults
            .iter()
            .map(|it| (it.code, it.refused))
            .collect();
        assert_eq!(faults, *want, "{name}: {:?}", judged.faults);
        assert_eq!(judged.proven(), want.is_empty(), "{name}");
        let named = judged.vtpm.is_some_and(|vtpm| vtpm.named);
        assert!(named || !judged.proven(), "{name}");
    }
}

#[test]
fn an_older_question_is_told_from_this_one() {
    let mut scene = Scene::new();
    assert!(scene.judge().vtpm.unwrap().fresh);
    scene.question = [6; 64];
    let judged = scene.judge();
    assert!(judged.proven() && !judged.vtpm.unwrap().fresh);
    scene.text = text(&AK_KEY, &[]);
    assert!(!scene.judge().vtpm.unwrap().fresh, "no place for one");
}
