//! The TPM thread's side: one ESYS connection, two loaded keys, made again when lost.
//!
//! A TPM without a resource manager has three transient slots: AK and transport key hold two
//! while connected, the third is for EK and storage key in turn.

use bailiwick_attestation::cvm::hcl;
use bailiwick_attestation::tpm::{AkPublic, CertifiedKey, PcrValues, QualifyingData, Quote};
use tracing::{info, warn};
use tss_esapi::{
    Context,
    abstraction::{DefaultKey, ek},
    constants::{CapabilityType, response_code::Tss2ResponseCodeKind, tss},
    handles::{KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle},
    interface_types::{resource_handles::Hierarchy, session_handles::AuthSession},
    structures::{
        Attest, CapabilityData, Data, Digest, EncryptedSecret, HashcheckTicket, IdObject,
        PcrSelectionList, PcrSlot, Public, Signature, SignatureScheme,
    },
    traits::Marshall,
};

use crate::clock::boot_time_ns;

use super::{
    Bank, Clock, Identity, Quoted, Settings, Signed, TpmError,
    endorsement::{activate_with, ek_selection, endorsement},
    keys::{self, Blob},
    nv,
};

/// How often registers that were extended between quote and reading are quoted again.
const QUOTES: u32 = 4;

const AK: &str = "ak";
const TRANSPORT: &str = "transport";

/// What one connection holds.
pub(super) struct Session {
    pub(super) context: Context,
    pub(super) ak: KeyHandle,
    transport: KeyHandle,
}

/// Where the AK is.
pub(super) enum Ak {
    /// Ours, beside the transport key.
    Kept(Blob),
    /// Somebody else made it and left it in the TPM.
    At(PersistentTpmHandle),
}

/// The TPM as its own thread sees it.
pub(super) struct Device {
    pub(super) settings: Settings,
    ak: Ak,
    transport: Blob,
    /// What everything the AK signs is checked with before it leaves.
    pub(super) ak_public: AkPublic,
    /// Absent after a failure, until the next request.
    session: Option<Session>,
}

pub(super) fn doing(doing: &'static str) -> impl Fn(tss_esapi::Error) -> TpmError {
    move |source| TpmError::Command { doing, source }
}

impl Device {
    /// Connects, makes the keys that do not exist yet, reads what identifies the node.
    pub(super) fn open(settings: Settings) -> Result<(Self, Identity), TpmError> {
        let mut context = connect(&settings)?;
        // Where the AK is not ours, the transport key shows whether this node was here before.
        let own = settings.ak_handle.map_or(AK, |_| TRANSPORT);
        let kept = Blob::read(&settings.keys, own)?.is_some();
        let (ak, ak_public) = match settings.ak_handle {
            None => {
                let blob = existing_or_new(&mut context, &settings, AK)?;
                let public = blob.public.clone();
                (Ak::Kept(blob), public)
            }
            Some(handle) => {
                let (handle, public) =
                    at(&mut context, handle).map_err(doing("read the key at tpm.ak_handle"))?;
                (Ak::At(handle), public)
            }
        };
        let transport = existing_or_new(&mut context, &settings, TRANSPORT)?;
        let (ek_public, ek_certificates) = endorsement(&mut context, settings.ek)?;
        let ak_bytes = ak_public.marshall().map_err(doing("marshal the AK"))?;
        let ak_public = bailiwick_attestation::tpm::Public::parse(&ak_bytes)
            .ok()
            .and_then(|public| AkPublic::new(public).ok())
            .ok_or(TpmError::Answer("an AK no verifier would accept"))?;
        let identity = Identity {
            ek_public: ek_public.marshall().map_err(doing("marshal the EK"))?,
            ek_certificates,
            ak_public: ak_bytes,
            ak_name: ak_public.name().as_bytes().to_vec(),
            transport_public: transport
                .public
                .marshall()
                .map_err(doing("marshal the transport key"))?,
            transport_point: point(&transport.public)?,
            kept,
        };
        let device = Self {
            session: Some(load(context, &settings, &ak, &transport)?),
            settings,
            ak,
            transport,
            ak_public,
        };
        Ok((device, identity))
    }

    /// Quotes, and reads the registers it covers. One that is extended in between is quoted again.
    pub(super) fn quote(&mut self, qualifying: &[u8; 32]) -> Result<Quoted, TpmError> {
        for _ in 0..QUOTES {
            let (quoted, covered) = self.quote_once(qualifying)?;
            if covered {
                return Ok(quoted);
            }
        }
        Err(TpmError::Answer(
            "registers that change whenever they are read",
        ))
    }

    /// A quote, the registers as they are a moment later, and whether they are the quoted ones.
    fn quote_once(&mut self, qualifying: &[u8; 32]) -> Result<(Quoted, bool), TpmError> {
        let selection = selection(&self.settings)?;
        let pcrs = self.settings.pcrs.clone();
        let want = QualifyingData::new(qualifying).ok_or(TpmError::Answer("qualifying data"))?;
        let qualifying = Data::try_from(qualifying.as_slice()).map_err(doing("qualifying data"))?;
        let (attest, signature, boot_time_ns, read) = self.with_session("quote", |session| {
            let boot_time_ns = boot_time_ns();
            session
                .context
                .set_sessions((Some(AuthSession::Password), None, None));
            let (attest, signature) = session.context.quote(
                session.ak,
                qualifying.clone(),
                SignatureScheme::Null,
                selection.clone(),
            )?;
            session.context.clear_sessions();
            let read = read_pcrs(&mut session.context, &selection)?;
            Ok((attest, signature, boot_time_ns, read))
        })?;
        if let Some(missing) = pcrs
            .iter()
            .find(|i| !read.iter().any(|(have, _)| have == *i))
        {
            return Err(TpmError::NoPcr { index: *missing });
        }
        let clock = attest.clock_info();
        let clock = Clock {
            clock_ms: clock.clock(),
            reset_count: clock.reset_count(),
            restart_count: clock.restart_count(),
            safe: clock.safe(),
        };
        let signed = signed(&attest, &signature)?;
        let verified = Quote::parse(&signed.attest)
            .and_then(|quote| quote.verify(&self.ak_public, &signed.signature, &want))
            .map_err(|source| TpmError::Quote(Box::new(source)))?;
        let covered = verified.pcrs(&values(self.settings.bank, &read)).is_ok();
        let quoted = Quoted {
            signed,
            clock,
            boot_time_ns,
            pcrs: read,
        };
        Ok((quoted, covered))
    }

    pub(super) fn certify_transport(&mut self, qualifying: &[u8; 32]) -> Result<Signed, TpmError> {
        let want = QualifyingData::new(qualifying).ok_or(TpmError::Answer("qualifying data"))?;
        let qualifying = Data::try_from(qualifying.as_slice()).map_err(doing("qualifying data"))?;
        let (attest, signature) = self.with_session("certify the transport key", |session| {
            session.context.set_sessions((
                Some(AuthSession::Password),
                Some(AuthSession::Password),
                None,
            ));
            session.context.certify(
                session.transport.into(),
                session.ak,
                qualifying.clone(),
                SignatureScheme::Null,
            )
        })?;
        let signed = signed(&attest, &signature)?;
        let public = self.transport.public.marshall();
        let public = public.map_err(doing("marshal the transport key"))?;
        let public = bailiwick_attestation::tpm::Public::parse(&public)
            .map_err(|_malformed| TpmError::Answer("a transport key no verifier can read"))?;
        let (attest, signature) = (&signed.attest, &signed.signature);
        CertifiedKey::verify(public, attest, signature, &self.ak_public, &want)
            .map_err(|source| TpmError::Certify(Box::new(source)))?;
        Ok(signed)
    }

    pub(super) fn sign_transport(
        &mut self,
        digest: &[u8; 32],
    ) -> Result<([u8; 32], [u8; 32]), TpmError> {
        let digest = Digest::try_from(digest.as_slice()).map_err(doing("digest"))?;
        let signature = self.with_session("sign with the transport key", |session| {
            // "No ticket": the key is unrestricted, so the digest may come from anywhere.
            let ticket = HashcheckTicket::try_from(tss_esapi_sys::TPMT_TK_HASHCHECK {
                tag: tss::TPM2_ST_HASHCHECK,
                hierarchy: tss::TPM2_RH_NULL,
                digest: tss_esapi_sys::TPM2B_DIGEST::default(),
            })?;
            session
                .context
                .set_sessions((Some(AuthSession::Password), None, None));
            session.context.sign(
                session.transport,
                digest.clone(),
                SignatureScheme::Null,
                ticket,
            )
        })?;
        let Signature::EcDsa(ecdsa) = signature else {
            return Err(TpmError::Answer("a TLS signature that is not ECDSA"));
        };
        let scalar = |bytes: &[u8]| {
            padded(bytes).ok_or(TpmError::Answer("an ECDSA scalar of more than 32 bytes"))
        };
        Ok((
            scalar(ecdsa.signature_r().value())?,
            scalar(ecdsa.signature_s().value())?,
        ))
    }

    pub(super) fn activate(&mut self, blob: &[u8], secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        let blob = unsized_2b(blob).ok_or(TpmError::Answer("not a TPM2B_ID_OBJECT"))?;
        let secret = unsized_2b(secret).ok_or(TpmError::Answer("not a TPM2B_ENCRYPTED_SECRET"))?;
        let blob = IdObject::try_from(blob.to_vec()).map_err(doing("credential blob"))?;
        let secret = EncryptedSecret::try_from(secret.to_vec()).map_err(doing("credential"))?;
        let kind = self.settings.ek;
        let answer = self.with_session("activate the credential", |session| {
            let context = &mut session.context;
            context.clear_sessions();
            let ek = ek::create_ek_object_2(context, ek_selection(kind), DefaultKey)?;
            let activated = activate_with(context, session.ak, ek, kind, &blob, &secret);
            context.clear_sessions();
            let flushed = context.flush_context(ObjectHandle::from(ek));
            let activated = activated?;
            flushed?;
            Ok(activated)
        })?;
        Ok(answer.value().to_vec())
    }

    pub(super) fn remembered(&mut self, size: usize) -> Result<Option<Vec<u8>>, TpmError> {
        self.with_session("read the NV index", |session| {
            nv::read(&mut session.context, nv::INDEX, size)
        })
    }

    pub(super) fn remember(&mut self, content: &[u8]) -> Result<(), TpmError> {
        self.with_session("write the NV index", |session| {
            nv::write(&mut session.context, nv::INDEX, content)
        })
    }

    pub(super) fn ask_paravisor(&mut self, question: &[u8; 64]) -> Result<(), TpmError> {
        self.with_session("ask the paravisor for a report", |session| {
            nv::write(&mut session.context, hcl::QUESTION_INDEX, question)
        })
    }

    pub(super) fn paravisor_report(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        self.with_session("read the paravisor's report", |session| {
            nv::read_whole(&mut session.context, hcl::NV_INDEX, hcl::MAX_HCL_BYTES)
        })
    }

    pub(super) fn secret(&mut self) -> Result<Option<[u8; 32]>, TpmError> {
        let read = self.with_session("read the master key", |session| {
            nv::read(&mut session.context, nv::SECRET, 32)
        })?;
        // Of 32 bytes, or there is none.
        Ok(read.and_then(|bytes| bytes.try_into().ok()))
    }

    pub(super) fn keep_secret(&mut self, secret: &[u8; 32]) -> Result<(), TpmError> {
        self.with_session("write the master key", |session| {
            nv::write(&mut session.context, nv::SECRET, secret)
        })
    }

    /// Runs `work` on the connection, made (again) where needed. A failure drops the connection,
    /// and one retry follows: the TPM may have been reset under us, or its device replaced.
    pub(super) fn with_session<T>(
        &mut self,
        what: &'static str,
        mut work: impl FnMut(&mut Session) -> tss_esapi::Result<T>,
    ) -> Result<T, TpmError> {
        let mut retried = false;
        loop {
            let mut session = match self.session.take() {
                Some(session) => session,
                None => {
                    let context = connect(&self.settings)?;
                    load(context, &self.settings, &self.ak, &self.transport)?
                }
            };
            match work(&mut session) {
                Ok(answer) => {
                    session.context.clear_sessions();
                    self.session = Some(session);
                    return Ok(answer);
                }
                Err(source) if retried => {
                    return Err(TpmError::Command {
                        doing: what,
                        source,
                    });
                }
                Err(error) => {
                    warn!(%error, what, "TPM command failed; connecting again");
                    retried = true;
                }
            }
        }
    }
}

fn connect(settings: &Settings) -> Result<Context, TpmError> {
    Context::new(settings.tcti.conf.clone()).map_err(|source| TpmError::Connect {
        tcti: settings.tcti.to_string(),
        source,
    })
}

fn existing_or_new(
    context: &mut Context,
    settings: &Settings,
    name: &'static str,
) -> Result<Blob, TpmError> {
    if let Some(blob) = Blob::read(&settings.keys, name)? {
        return Ok(blob);
    }
    let template = if name == AK {
        keys::ak_template(settings.ak)
    } else {
        keys::transport_template()
    }
    .map_err(doing("key template"))?;
    let blob = with_storage_key(context, |context, parent| {
        let made = context.create(parent, template.clone(), None, None, None, None)?;
        Ok(Blob {
            public: made.out_public,
            private: made.out_private,
        })
    })
    .map_err(doing("create a key"))?;
    blob.write(&settings.keys, name)?;
    info!(key = name, folder = %settings.keys.display(), "made a new TPM key");
    Ok(blob)
}

fn load(
    mut context: Context,
    settings: &Settings,
    ak: &Ak,
    transport: &Blob,
) -> Result<Session, TpmError> {
    let (ak, transport) = with_storage_key(&mut context, |context, parent| {
        let mut load = |blob: &Blob| {
            context.set_sessions((Some(AuthSession::Password), None, None));
            context.load(parent, blob.private.clone(), blob.public.clone())
        };
        let transport = load(transport)?;
        let ak = match ak {
            Ak::Kept(blob) => load(blob)?,
            Ak::At(handle) => {
                context.clear_sessions();
                let key = context.tr_from_tpm_public(TpmHandle::Persistent(*handle))?;
                KeyHandle::from(key)
            }
        };
        Ok((ak, transport))
    })
    .map_err(|source| match kind(&source) {
        Some(Tss2ResponseCodeKind::Integrity) => TpmError::ForeignKeys {
            folder: settings.keys.clone(),
            source,
        },
        _ => TpmError::Command {
            doing: "load the keys",
            source,
        },
    })?;
    Ok(Session {
        context,
        ak,
        transport,
    })
}

/// A key that is in the TPM already.
fn at(context: &mut Context, handle: u32) -> tss_esapi::Result<(PersistentTpmHandle, Public)> {
    let handle = PersistentTpmHandle::new(handle)?;
    context.clear_sessions();
    let key = context.tr_from_tpm_public(TpmHandle::Persistent(handle))?;
    let (public, ..) = context.read_public(KeyHandle::from(key))?;
    Ok((handle, public))
}

/// Makes the storage key, runs `work` with it, flushes it.
fn with_storage_key<T>(
    context: &mut Context,
    mut work: impl FnMut(&mut Context, KeyHandle) -> tss_esapi::Result<T>,
) -> tss_esapi::Result<T> {
    with_slots(context, |context| {
        context.set_sessions((Some(AuthSession::Password), None, None));
        let template = keys::storage_template()?;
        let parent = context
            .create_primary(Hierarchy::Owner, template, None, None, None, None)?
            .key_handle;
        let outcome = work(context, parent);
        context.clear_sessions();
        let flushed = context.flush_context(parent.into());
        let outcome = outcome?;
        flushed.map(|()| outcome)
    })
}

/// Runs `work`, and once more where the TPM's slots were full: without a resource manager, what a
/// killed process had loaded stays loaded.
pub(super) fn with_slots<T>(
    context: &mut Context,
    mut work: impl FnMut(&mut Context) -> tss_esapi::Result<T>,
) -> tss_esapi::Result<T> {
    match work(context) {
        Err(error) if kind(&error) == Some(Tss2ResponseCodeKind::ObjectMemory) => {
            warn!("the TPM's slots are full of what others left behind; flushing them");
            context.clear_sessions();
            flush_transients(context)?;
            work(context)
        }
        outcome => outcome,
    }
}

fn flush_transients(context: &mut Context) -> tss_esapi::Result<()> {
    let (data, _) =
        context.get_capability(CapabilityType::Handles, tss::TPM2_TRANSIENT_FIRST, 16)?;
    if let CapabilityData::Handles(handles) = data {
        for handle in handles.iter().copied() {
            let object = context.tr_from_tpm_public(handle)?;
            context.flush_context(object)?;
        }
    }
    Ok(())
}

/// `PCR_Read` answers with at most eight digests a call; asks until nothing more comes.
fn read_pcrs(
    context: &mut Context,
    selection: &PcrSelectionList,
) -> tss_esapi::Result<Vec<(u8, Vec<u8>)>> {
    let mut left = selection.clone();
    let mut read = Vec::new();
    while !left.is_empty() {
        let (_, answered, digests) = context.pcr_read(left.clone())?;
        let slots: Vec<PcrSlot> = answered
            .get_selections()
            .iter()
            .flat_map(tss_esapi::structures::PcrSelection::selected)
            .collect();
        if slots.is_empty() {
            break;
        }
        for (slot, digest) in slots.iter().zip(digests.value()) {
            let index = u32::from(*slot).trailing_zeros();
            read.push((
                u8::try_from(index).unwrap_or(u8::MAX),
                digest.value().to_vec(),
            ));
        }
        left.subtract(&answered)?;
    }
    read.sort_unstable();
    Ok(read)
}

/// As whoever verifies the quote will see them; what is no register's value is left out, and missed
/// there.
fn values(bank: Bank, read: &[(u8, Vec<u8>)]) -> PcrValues {
    let mut values = PcrValues::new();
    for (index, digest) in read {
        drop(values.insert(bank.hash(), u32::from(*index), digest));
    }
    values
}

fn selection(settings: &Settings) -> Result<PcrSelectionList, TpmError> {
    let slots = settings
        .pcrs
        .iter()
        .map(|index| PcrSlot::try_from(1_u32.checked_shl((*index).into()).unwrap_or(0)))
        .collect::<tss_esapi::Result<Vec<_>>>()
        .map_err(doing("PCR selection"))?;
    PcrSelectionList::builder()
        .with_selection(settings.bank.hashing(), &slots)
        .build()
        .map_err(doing("PCR selection"))
}

/// The library hands out parsed structures; they are marshalled again, and whoever sends them
/// checks the signature over these bytes first.
pub(super) fn signed(attest: &Attest, signature: &Signature) -> Result<Signed, TpmError> {
    Ok(Signed {
        attest: attest.marshall().map_err(doing("marshal TPMS_ATTEST"))?,
        signature: signature
            .marshall()
            .map_err(doing("marshal TPMT_SIGNATURE"))?,
    })
}

fn kind(error: &tss_esapi::Error) -> Option<Tss2ResponseCodeKind> {
    match error {
        tss_esapi::Error::Tss2Error(code) => code.kind(),
        tss_esapi::Error::WrapperError(_) => None,
    }
}

fn point(public: &Public) -> Result<([u8; 32], [u8; 32]), TpmError> {
    let Public::Ecc { unique, .. } = public else {
        return Err(TpmError::Answer("a transport key that is not ECC"));
    };
    let wide = TpmError::Answer("a P-256 coordinate of more than 32 bytes");
    match (padded(unique.x().value()), padded(unique.y().value())) {
        (Some(x), Some(y)) => Ok((x, y)),
        _ => Err(wide),
    }
}

/// Some TPMs leave leading zeros away.
fn padded(bytes: &[u8]) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    let start = out.len().checked_sub(bytes.len())?;
    out.get_mut(start..)?.copy_from_slice(bytes);
    Some(out)
}

/// The content of a `TPM2B`, if its size is right to the byte.
fn unsized_2b(bytes: &[u8]) -> Option<&[u8]> {
    let (size, content) = bytes.split_first_chunk::<2>()?;
    (usize::from(u16::from_be_bytes(*size)) == content.len()).then_some(content)
}
