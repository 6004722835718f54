//! Credentials made in software, activated by a TPM that has never heard of us.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use bailiwick_attestation::tpm::{
    AkPublic, CertifiedKey, Credential, EkPublic, Name, Public, QualifyingData, Quote,
    make_credential,
};
use bailiwick_tests::swtpm::SoftTpm;

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// What an EK of one template needs to be made and used.
struct Template {
    name: &'static str,
    /// Makes `ek.ctx` and `ek.pub`, a `TPMT_PUBLIC`.
    create: &'static str,
    session: &'static str,
    /// After `PolicySecret` on the endorsement hierarchy.
    then: Option<&'static str>,
}

/// The TCG's templates L-1 (RSA-2048), L-2 (P-256) and H-3 (P-384). For the last, tpm2-tools has
/// no short form: its policy is PolicyOR of PolicySecret and an authority index.
const TEMPLATES: [Template; 3] = [
    Template {
        name: "RSA-2048",
        create: "tpm2_createek -G rsa -c ek.ctx -u ek.pub -f tpmt",
        session: "tpm2_startauthsession --policy-session -S session.ctx",
        then: None,
    },
    Template {
        name: "P-256",
        create: "tpm2_createek -G ecc -c ek.ctx -u ek.pub -f tpmt",
        session: "tpm2_startauthsession --policy-session -S session.ctx",
        then: None,
    },
    Template {
        name: "P-384",
        create: "tpm2_createprimary -C e -g sha384 -G ecc384:aes256cfb -L either.policy \
                 -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|restricted|decrypt \
                 -c ek.ctx -f tpmt -o ek.pub",
        session: "tpm2_startauthsession --policy-session -g sha384 -S session.ctx",
        then: Some("tpm2_policyor -S session.ctx -l sha384:secret.policy,index.policy"),
    },
];

/// `PolicyA`, `PolicyC` and `PolicyB` with SHA-384, TCG EK Credential Profile 2.5, annex B.6.
const POLICIES: [(&str, &str); 3] = [
    (
        "secret.policy",
        "8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53",
    ),
    (
        "index.policy",
        "d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165",
    ),
    (
        "either.policy",
        "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
    ),
];

/// A TPM with an EK of some template and an AK below it.
struct Machine {
    tpm: SoftTpm,
    template: &'static Template,
    ek: EkPublic,
    ak: AkPublic,
}

impl Machine {
    fn new(template: &'static Template) -> Self {
        let tpm = SoftTpm::start().unwrap();
        for (file, digest) in POLICIES {
            std::fs::write(tpm.path(file), hex::decode(digest).unwrap()).unwrap();
        }
        tpm.tool(template.create).unwrap();
        let ek = Public::parse(&std::fs::read(tpm.path("ek.pub")).unwrap()).unwrap();
        with_session(&tpm, template, |tpm| {
            tpm.tool(
                "tpm2_create -C ek.ctx -P session:session.ctx -g sha256 -G ecc256:ecdsa-sha256:null \
                 -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign \
                 -u ak.sized -r ak.private -f tpmt -o ak.pub",
            )
        })
        .unwrap();
        with_session(&tpm, template, |tpm| {
            tpm.tool(
                "tpm2_load -C ek.ctx -P session:session.ctx -u ak.sized -r ak.private -c ak.ctx \
                 -n ak.name",
            )
        })
        .unwrap();
        let ak = Public::parse_either(&std::fs::read(tpm.path("ak.sized")).unwrap()).unwrap();
        let ak = AkPublic::new(ak).unwrap();
        let name = std::fs::read(tpm.path("ak.name")).unwrap();
        assert_eq!(ak.name().as_bytes(), name, "the TPM computes the same name");
        Self {
            ek: EkPublic::new(ek).unwrap(),
            ak,
            tpm,
            template,
        }
    }

    fn activate(&self, credential: &Credential) -> anyhow::Result<Vec<u8>> {
        // The file of tpm2-tools: magic, version, then the two structures.
        let mut blob = vec![0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
        blob.extend_from_slice(&credential.id_object);
        blob.extend_from_slice(&credential.encrypted_secret);
        std::fs::write(self.tpm.path("blob"), blob)?;
        with_session(&self.tpm, self.template, |tpm| {
            tpm.tool(
                "tpm2_activatecredential -c ak.ctx -C ek.ctx -i blob -o out \
                 -P session:session.ctx",
            )
        })?;
        Ok(std::fs::read(self.tpm.path("out"))?)
    }
}

fn with_session(
    tpm: &SoftTpm,
    template: &Template,
    act: impl FnOnce(&SoftTpm) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    tpm.tool(template.session)?;
    tpm.tool("tpm2_policysecret -S session.ctx -c e")?;
    if let Some(then) = template.then {
        tpm.tool(then)?;
    }
    let outcome = act(tpm);
    tpm.tool("tpm2_flushcontext session.ctx")?;
    outcome
}

#[test]
fn a_tpm_activates_what_we_made_for_it_and_nothing_else() {
    let machines: Vec<Machine> = TEMPLATES.iter().map(Machine::new).collect();
    for machine in &machines {
        let template = machine.template.name;
        let credential = make_credential(&machine.ek, machine.ak.name(), SECRET).unwrap();
        assert_eq!(machine.activate(&credential).unwrap(), SECRET, "{template}");

        let mut other = machine.ak.name().as_bytes().to_vec();
        *other.last_mut().unwrap() ^= 1;
        let other = Name::parse(&other).unwrap();
        let for_other_ak = make_credential(&machine.ek, &other, SECRET).unwrap();
        assert!(
            machine.activate(&for_other_ak).is_err(),
            "{template}: another AK's name"
        );

        let mut flipped = make_credential(&machine.ek, machine.ak.name(), SECRET).unwrap();
        *flipped.id_object.last_mut().unwrap() ^= 1;
        assert!(
            machine.activate(&flipped).is_err(),
            "{template}: one bit of the secret"
        );

        let stranger = Machine::new(machine.template);
        let for_stranger = make_credential(&stranger.ek, machine.ak.name(), SECRET).unwrap();
        assert!(
            machine.activate(&for_stranger).is_err(),
            "{template}: another TPM's EK"
        );
    }
}

#[test]
fn quotes_and_certificates_of_every_scheme_verify() {
    for (key, scheme, hash) in [
        ("ecc256", "ecdsa", "sha256"),
        ("ecc384", "ecdsa", "sha384"),
        ("rsa2048", "rsassa", "sha256"),
        ("rsa2048", "rsapss", "sha256"),
        ("rsa3072", "rsassa", "sha384"),
    ] {
        let how = format!("-C e -G {key}:{scheme}-{hash}:null");
        let signing = format!("-g {hash} --scheme {scheme}");
        let tpm = SoftTpm::start().unwrap();
        let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign";
        tpm.tool(&format!(
            "tpm2_createprimary {how} -a {attributes}|restricted -c ak.ctx \
             -f tpmt -o ak.pub"
        ))
        .unwrap();
        tpm.tool(&format!(
            "tpm2_createprimary -C o -G ecc256 -a {attributes} -c tls.ctx -f tpmt -o tls.pub"
        ))
        .unwrap();
        tpm.tool(&format!(
            "tpm2_quote -c ak.ctx {signing} -l sha256:0,7 -q 00112233 -m quote -s quote.signature"
        ))
        .unwrap();
        tpm.tool(&format!(
            "tpm2_certify -c tls.ctx -C ak.ctx {signing} -o certify -s certify.signature"
        ))
        .unwrap();
        let read = |name| std::fs::read(tpm.path(name)).unwrap();

        let ak = AkPublic::new(Public::parse(&read("ak.pub")).unwrap()).unwrap();
        let (quote, signature) = (read("quote"), read("quote.signature"));
        let nonce = QualifyingData::new(&[0x00, 0x11, 0x22, 0x33]).unwrap();
        let verified = Quote::parse(&quote)
            .unwrap()
            .verify(&ak, &signature, &nonce);
        assert_eq!(
            verified.unwrap().selection().registers().count(),
            2,
            "{scheme}"
        );

        let tls = Public::parse(&read("tls.pub")).unwrap();
        let (certify, signature) = (read("certify"), read("certify.signature"));
        // What tpm2_certify of version 5 asks the TPM to sign, whatever one asks it.
        let fixed = QualifyingData::new(&[0x00, 0xff, 0x55, 0xaa]).unwrap();
        let certified = CertifiedKey::verify(tls, &certify, &signature, &ak, &fixed);
        assert_eq!(certified.unwrap().key().kind(), "p-256", "{key} {scheme}");
    }
}
