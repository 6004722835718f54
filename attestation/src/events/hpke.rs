//! HPKE (RFC 9180), base mode, one message: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-128-GCM.
//!
//! A node wraps a key of 32 bytes for the collector's key store and never opens it again. The
//! suite is one whose vectors stand in the RFC itself; its strength is that of P-256.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree},
    hkdf::{HKDF_SHA256, KeyType, Prk},
    hmac,
};

/// Length of a public key: an uncompressed point.
pub const POINT: usize = 65;

/// `suite_id` of the KEM: "KEM" ‖ I2OSP(kem_id, 2).
const KEM_SUITE: &[u8] = b"KEM\x00\x10";
/// "HPKE" ‖ kem_id ‖ kdf_id ‖ aead_id.
const SUITE: &[u8] = b"HPKE\x00\x10\x00\x01\x00\x01";
/// `mode_base`.
const BASE: u8 = 0;

/// Why a message was not made or not opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HpkeError {
    /// Not an uncompressed point of P-256.
    #[error("not a P-256 public key: an uncompressed point of 65 bytes")]
    Public,
    /// Not a scalar of P-256.
    #[error("not a P-256 private key")]
    Private,
    /// Too short, made for another key or another purpose, or changed.
    #[error("does not open: made for another key, or changed")]
    Open,
    /// The provider failed.
    #[error("the cryptographic provider failed")]
    Provider,
}

/// What both sides derive.
struct Context {
    key: [u8; 16],
    base_nonce: [u8; 12],
}

/// Seals `plaintext` to `public`: encapsulated key, then ciphertext. `ephemeral` are 32 random
/// bytes, drawn for this message and used for no other.
pub fn seal(
    public: &[u8; POINT],
    ephemeral: &[u8; 32],
    info: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, HpkeError> {
    let ephemeral = PrivateKey::from_private_key(&ECDH_P256, ephemeral)
        .map_err(|_rejected| HpkeError::Private)?;
    let enc = point(&ephemeral)?;
    let shared = shared(&ephemeral, public, &enc, public, HpkeError::Public)?;
    let context = schedule(&shared, info)?;
    let mut out = enc.to_vec();
    let mut text = plaintext.to_vec();
    cipher(&context)?
        .seal_in_place_append_tag(nonce(&context), Aad::from(aad), &mut text)
        .map_err(|_unspecified| HpkeError::Provider)?;
    out.append(&mut text);
    Ok(out)
}

/// Opens what [`seal`] made for this private key.
pub fn open(
    private: &PrivateKey,
    info: &[u8],
    aad: &[u8],
    message: &[u8],
) -> Result<Vec<u8>, HpkeError> {
    let (enc, text) = message
        .split_first_chunk::<POINT>()
        .ok_or(HpkeError::Open)?;
    let public = point(private)?;
    let shared = shared(private, enc, enc, &public, HpkeError::Open)?;
    let context = schedule(&shared, info)?;
    let mut text = text.to_vec();
    let plain = cipher(&context)?
        .open_in_place(nonce(&context), Aad::from(aad), &mut text)
        .map_err(|_unspecified| HpkeError::Open)?;
    Ok(plain.to_vec())
}

/// The public key that goes with a private one.
pub fn point(private: &PrivateKey) -> Result<[u8; POINT], HpkeError> {
    let public = private.compute_public_key();
    let public = public.map_err(|_unspecified| HpkeError::Provider)?;
    public
        .as_ref()
        .try_into()
        .map_err(|_length| HpkeError::Private)
}

/// Encap and Decap of RFC 9180 §4.1 from the agreement on.
fn shared(
    private: &PrivateKey,
    peer: &[u8; POINT],
    enc: &[u8; POINT],
    recipient: &[u8; POINT],
    refused: HpkeError,
) -> Result<[u8; 32], HpkeError> {
    let peer = UnparsedPublicKey::new(&ECDH_P256, peer);
    agree(private, peer, refused, |dh| {
        let eae_prk = extract(KEM_SUITE, &[], b"eae_prk", dh);
        expand(
            KEM_SUITE,
            &eae_prk,
            b"shared_secret",
            &[enc.as_slice(), recipient].concat(),
        )
    })
}

/// `KeySchedule` of RFC 9180 §5.1, without a pre-shared key.
fn schedule(shared: &[u8; 32], info: &[u8]) -> Result<Context, HpkeError> {
    let psk_id_hash = extract(SUITE, &[], b"psk_id_hash", &[]);
    let info_hash = extract(SUITE, &[], b"info_hash", info);
    let context = [&[BASE], psk_id_hash.as_slice(), &info_hash].concat();
    let secret = extract(SUITE, shared, b"secret", &[]);
    Ok(Context {
        key: expand(SUITE, &secret, b"key", &context)?,
        base_nonce: expand(SUITE, &secret, b"base_nonce", &context)?,
    })
}

/// `LabeledExtract`.
fn extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
    let tag = hmac::sign(&key, &[b"HPKE-v1", suite, label, ikm].concat());
    let mut out = [0; 32];
    out.copy_from_slice(tag.as_ref());
    out
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// `LabeledExpand`.
fn expand<const N: usize>(
    suite: &[u8],
    prk: &[u8; 32],
    label: &[u8],
    info: &[u8],
) -> Result<[u8; N], HpkeError> {
    let length = u16::try_from(N).map_err(|_wide| HpkeError::Provider)?;
    let info = [
        &length.to_be_bytes(),
        b"HPKE-v1".as_slice(),
        suite,
        label,
        info,
    ];
    let mut out = [0; N];
    Prk::new_less_safe(HKDF_SHA256, prk)
        .expand(&info, Length(N))
        .and_then(|okm| okm.fill(&mut out))
        .map_err(|_unspecified| HpkeError::Provider)?;
    Ok(out)
}

fn cipher(context: &Context) -> Result<LessSafeKey, HpkeError> {
    UnboundKey::new(&AES_128_GCM, &context.key)
        .map(LessSafeKey::new)
        .map_err(|_unspecified| HpkeError::Provider)
}

/// Of the one message: sequence number 0.
fn nonce(context: &Context) -> Nonce {
    Nonce::assume_unique_for_key(context.base_nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 9180, appendix A.3.1 (DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-128-GCM; base), the
    // first message.
    const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
    const SK_E: &str = "4995788ef4b9d6132b249ce59a77281493eb39af373d236a1fe415cb0c2d7beb";
    const PK_R: &str = "04fe8c19ce0905191ebc298a9245792531f26f0cece2460639e8bc39cb7f706a826a779b4cf969b8a0e539c7f62fb3d30ad6aa8f80e30f1d128aafd68a2ce72ea0";
    const SK_R: &str = "f3ce7fdae57e1a310d87f1ebbde6f328be0a99cdbcadf4d6589cf29de4b8ffd2";
    const ENC: &str = "04a92719c6195d5085104f469a8b9814d5838ff72b60501e2c4466e5e67b325ac98536d7b61a1af4b78e5b7f951c0900be863c403ce65c9bfcb9382657222d18c4";
    const SHARED: &str = "c0d26aeab536609a572b07695d933b589dcf363ff9d93c93adea537aeabb8cb8";
    const KEY: &str = "868c066ef58aae6dc589b6cfdd18f97e";
    const NONCE: &str = "4e0bc5018beba4bf004cca59";
    const AAD: &str = "436f756e742d30";
    const PT: &str = "4265617574792069732074727574682c20747275746820626561757479";
    const CT: &str = "5ad590bb8baa577f8619db35a36311226a896e7342a6d836d8b7bcd2f20b6c7f9076ac232e3ab2523f39513434";

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).unwrap().try_into().unwrap()
    }

    fn recipient() -> PrivateKey {
        PrivateKey::from_private_key(&ECDH_P256, &bytes::<32>(SK_R)).unwrap()
    }

    fn vector() -> Vec<u8> {
        hex::decode([ENC, CT].concat()).unwrap()
    }

    #[test]
    fn the_vector_of_the_rfc_is_met_step_by_step() {
        assert_eq!(point(&recipient()).unwrap(), bytes(PK_R));
        let shared = shared(
            &recipient(),
            &bytes(ENC),
            &bytes(ENC),
            &bytes(PK_R),
            HpkeError::Open,
        )
        .unwrap();
        assert_eq!(shared, bytes(SHARED));
        let context = schedule(&shared, &hex::decode(INFO).unwrap()).unwrap();
        assert_eq!(
            (context.key, context.base_nonce),
            (bytes(KEY), bytes(NONCE))
        );
        let sealed = seal(
            &bytes(PK_R),
            &bytes(SK_E),
            &hex::decode(INFO).unwrap(),
            &hex::decode(AAD).unwrap(),
            &hex::decode(PT).unwrap(),
        );
        assert_eq!(sealed.unwrap(), vector());
        let opened = open(
            &recipient(),
            &hex::decode(INFO).unwrap(),
            &hex::decode(AAD).unwrap(),
            &vector(),
        );
        assert_eq!(opened.unwrap(), hex::decode(PT).unwrap());
    }

    #[test]
    fn what_was_made_for_another_or_changed_does_not_open() {
        let (info, aad) = (hex::decode(INFO).unwrap(), hex::decode(AAD).unwrap());
        let other = PrivateKey::from_private_key(&ECDH_P256, &bytes::<32>(SK_E)).unwrap();
        let refused = Err(HpkeError::Open);
        assert_eq!(open(&other, &info, &aad, &vector()), refused, "another key");
        assert_eq!(
            open(&recipient(), b"x", &aad, &vector()),
            refused,
            "another purpose"
        );
        assert_eq!(
            open(&recipient(), &info, b"x", &vector()),
            refused,
            "other data"
        );
        for at in [0, 1, 64, 65, vector().len() - 1] {
            let mut bad = vector();
            bad[at] ^= 1;
            assert_eq!(open(&recipient(), &info, &aad, &bad), refused, "byte {at}");
        }
        for cut in [0, 64, 65, 80, vector().len() - 1] {
            assert_eq!(
                open(&recipient(), &info, &aad, &vector()[..cut]),
                refused,
                "{cut}"
            );
        }
        let mut off_curve: [u8; POINT] = bytes(PK_R);
        off_curve[64] ^= 1;
        let sealed = seal(&off_curve, &bytes(SK_E), &info, &aad, b"x");
        assert_eq!(sealed, Err(HpkeError::Public));
        let sealed = seal(&bytes(PK_R), &[0; 32], &info, &aad, b"x");
        assert_eq!(sealed, Err(HpkeError::Private));
    }
}
