//! A TPM that is a program: keys in memory, and what a TPM would sign with them.
//!
//! Nobody takes it for one by itself. Approvers of a test listed its EK and named its AK, and with
//! that it stands where a node of a fleet would.

use anyhow::{Context as _, anyhow};
use aws_lc_rs::agreement::{self, ECDH_P256, UnparsedPublicKey};
use aws_lc_rs::cipher::{AES_128, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
};
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::{AkPublic, Public};

/// `fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy | restricted | decrypt`.
const EK: u32 = 0x0003_00b2;
/// `fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | restricted | sign`.
const AK: u32 = 0x0005_0072;
/// The same without `restricted`.
const TRANSPORT: u32 = 0x0004_0072;

/// `TPMT_SYM_DEF_OBJECT`: AES-128 in CFB mode.
const AES_CFB: &[u8] = &[0x00, 0x06, 0x00, 0x80, 0x00, 0x43];
/// `TPM_ALG_NULL`.
const NULL: &[u8] = &[0x00, 0x10];
/// ECDSA with SHA-256.
const ECDSA: &[u8] = &[0x00, 0x18, 0x00, 0x0b];

/// `TPM_ST_ATTEST_CERTIFY`, `TPM_ST_ATTEST_QUOTE`.
const CERTIFY: [u8; 2] = [0x80, 0x17];
const QUOTE: [u8; 2] = [0x80, 0x18];
/// Never reset since it began.
const RESETS: u32 = 7;

/// Registers of one bank.
pub(super) const REGISTERS: usize = 24;

/// One of them.
#[derive(Debug)]
pub(super) struct SoftTpm {
    ek: agreement::PrivateKey,
    ek_public: Vec<u8>,
    ak: EcdsaKeyPair,
    ak_public: Vec<u8>,
    ak_name: Vec<u8>,
    transport: Vec<u8>,
    transport_public: Vec<u8>,
    /// SHA-256 bank.
    pub(super) registers: [[u8; 32]; REGISTERS],
}

impl SoftTpm {
    pub(super) fn new() -> anyhow::Result<Self> {
        let ek = agreement::PrivateKey::generate(&ECDH_P256).ok();
        let ek = ek.context("the provider drew no key")?;
        let point = ek.compute_public_key().ok().context("the key's point")?;
        let ek_public = area(EK, AES_CFB, NULL, point.as_ref())?;
        let ak = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok();
        let ak = ak.context("the provider drew no key")?;
        let ak_public = area(AK, NULL, ECDSA, ak.public_key().as_ref())?;
        let ak_name = AkPublic::new(Public::parse(&ak_public)?)?;
        let ak_name = ak_name.name().as_bytes().to_vec();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let transport = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).ok();
        let transport = transport.context("the provider drew no key")?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, transport.as_ref()).ok();
        let pair = pair.context("a key just drawn")?;
        let transport_public = area(TRANSPORT, NULL, ECDSA, pair.public_key().as_ref())?;
        Ok(Self {
            ek,
            ek_public,
            ak,
            ak_public,
            ak_name,
            transport: transport.as_ref().to_vec(),
            transport_public,
            registers: [[0; 32]; REGISTERS],
        })
    }

    /// SHA-256 of the EK's public area.
    pub(super) fn ek_digest(&self) -> Sha256Digest {
        Sha256Digest::of(&[&self.ek_public])
    }

    pub(super) fn ek_public(&self) -> &[u8] {
        &self.ek_public
    }

    pub(super) fn ak_public(&self) -> &[u8] {
        &self.ak_public
    }

    pub(super) fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }

    pub(super) fn transport_public(&self) -> &[u8] {
        &self.transport_public
    }

    /// The transport key, PKCS #8.
    pub(super) fn transport(&self) -> &[u8] {
        &self.transport
    }

    /// `TPM2_Extend` of a register's value with bytes, as `TPM2_PCR_Event` hashes them.
    pub(super) fn extend(&mut self, index: usize, event: &[u8]) -> anyhow::Result<()> {
        let register = self.registers.get_mut(index).context("a register")?;
        let measured = Sha256Digest::of(&[event]);
        *register = Sha256Digest::of(&[&*register, measured.as_bytes()]).0;
        Ok(())
    }

    /// `TPM2_Certify` of the transport key by the AK: attestation and signature.
    pub(super) fn certify(&self, qualifying: &[u8; 32]) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let hash = digest(&SHA256, &self.transport_public);
        let name = [&[0x00, 0x0b][..], hash.as_ref()].concat();
        let body = [sized(&name)?, sized(&name)?].concat();
        self.attest(CERTIFY, qualifying, 0, &body)
    }

    /// `TPM2_Quote` over every register of the bank, at a moment of the TPM's clock, ms.
    pub(super) fn quote(
        &self,
        qualifying: &[u8; 32],
        clock_ms: u64,
    ) -> anyhow::Result<v1::TpmQuote> {
        let values = Sha256Digest::of(&[&self.registers.concat()]);
        let mut body = vec![0, 0, 0, 1, 0x00, 0x0b, 3, 0xff, 0xff, 0xff];
        body.extend(sized(values.as_bytes())?);
        let (attest, signature) = self.attest(QUOTE, qualifying, clock_ms, &body)?;
        Ok(v1::TpmQuote { attest, signature })
    }

    fn attest(
        &self,
        kind: [u8; 2],
        qualifying: &[u8; 32],
        clock_ms: u64,
        body: &[u8],
    ) -> anyhow::Result<(Vec<u8>, Vec<u8>)> {
        let mut attest = b"\xffTCG".to_vec();
        attest.extend(kind);
        attest.extend(sized(&self.ak_name)?);
        attest.extend(sized(qualifying)?);
        attest.extend(clock_ms.to_be_bytes());
        attest.extend(RESETS.to_be_bytes());
        attest.extend(0_u32.to_be_bytes());
        attest.push(1);
        attest.extend(0x2019_1023_0016_3636_u64.to_be_bytes());
        attest.extend(body);
        let signed = self.ak.sign(&SystemRandom::new(), &attest).ok();
        let signed = signed.context("the provider did not sign")?;
        let halves = signed.as_ref().split_at_checked(32);
        let (r, s) = halves.context("two scalars")?;
        let signature = [ECDSA, &sized(r)?, &sized(s)?].concat();
        Ok((attest, signature))
    }

    /// DER signature by the transport key.
    pub(super) fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, &self.transport).ok();
        let pair = pair.context("the transport key")?;
        let signed = pair.sign(&SystemRandom::new(), message).ok();
        Ok(signed
            .context("the provider did not sign")?
            .as_ref()
            .to_vec())
    }

    /// `TPM2_ActivateCredential` for the AK. TPM 2.0 Library r1.59, Part 1, "Credential
    /// Protection".
    pub(super) fn activate(&self, blob: &[u8], secret: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (point, _) = take(secret)?;
        let (x, rest) = take(point)?;
        let (y, _) = take(rest)?;
        let own = self
            .ek
            .compute_public_key()
            .ok()
            .context("the EK's point")?;
        let own = own.as_ref().get(1..33).context("its first coordinate")?;
        let theirs = UnparsedPublicKey::new(&ECDH_P256, [&[4][..], x, y].concat());
        let seed = agreement::agree(&self.ek, theirs, anyhow!("no agreement"), |z| {
            Ok(Sha256Digest::of(&[
                &1_u32.to_be_bytes(),
                z,
                b"IDENTITY\0",
                x,
                own,
            ]))
        })?;
        let mut kdf = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, seed.as_bytes()));
        for part in [&1_u32.to_be_bytes()[..], b"STORAGE\0", &self.ak_name] {
            kdf.update(part);
        }
        kdf.update(&128_u32.to_be_bytes());
        let key = kdf.sign();
        let key = key.as_ref().get(..16).context("a key")?;
        let (object, _) = take(blob)?;
        let (_, sealed) = take(object)?;
        let mut opened = sealed.to_vec();
        let key = UnboundCipherKey::new(&AES_128, key).ok().context("a key")?;
        let key = DecryptingKey::cfb128(key).ok().context("a key")?;
        let vector = DecryptionContext::Iv128(FixedLength::from([0; 16]));
        key.decrypt(&mut opened, vector).ok().context("decrypt")?;
        Ok(take(&opened)?.0.to_vec())
    }
}

/// `TPMT_PUBLIC` of a P-256 key, SHA-256, without a policy.
fn area(attributes: u32, symmetric: &[u8], scheme: &[u8], point: &[u8]) -> anyhow::Result<Vec<u8>> {
    let coordinates = point.get(1..).and_then(|both| both.split_at_checked(32));
    let (x, y) = coordinates.context("an uncompressed point")?;
    let mut out = vec![0x00, 0x23, 0x00, 0x0b];
    out.extend(attributes.to_be_bytes());
    out.extend([0, 0]);
    out.extend(symmetric);
    out.extend(scheme);
    out.extend([0x00, 0x03]);
    out.extend(NULL);
    out.extend(sized(x)?);
    out.extend(sized(y)?);
    Ok(out)
}

/// A `TPM2B`.
fn sized(content: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(content.len()).context("a short field")?;
    Ok([&length.to_be_bytes(), content].concat())
}

/// The content of the `TPM2B` at the front, and what follows it.
fn take(bytes: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>().context("a length")?;
    let length = usize::from(u16::from_be_bytes(*length));
    rest.split_at_checked(length).context("as much as it says")
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::tpm::{EkPublic, make_credential};

    use super::*;

    #[test]
    fn it_opens_what_was_sealed_to_its_keys_and_to_no_others() {
        let (own, other) = (SoftTpm::new().unwrap(), SoftTpm::new().unwrap());
        let ek = EkPublic::new(Public::parse(own.ek_public()).unwrap()).unwrap();
        let sealed = |of: &SoftTpm| {
            let ak = AkPublic::new(Public::parse(of.ak_public()).unwrap()).unwrap();
            make_credential(&ek, ak.name(), &[7; 32]).unwrap()
        };
        let opened = |credential: &bailiwick_attestation::tpm::Credential| {
            own.activate(&credential.id_object, &credential.encrypted_secret)
        };
        assert_eq!(opened(&sealed(&own)).unwrap(), [7; 32]);
        assert_ne!(opened(&sealed(&other)).ok(), Some(vec![7; 32]));
    }
}
