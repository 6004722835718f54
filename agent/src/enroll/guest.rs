//! Enrolment of a guest without a TPM: its processor says, of a nonce that the collector drew, whose
//! key this is.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bailiwick_attestation::{
    evidence::{Nonce, guest_transport_data},
    proto::v1::{GuestProof, GuestRequest, TeeEvidence, TeeReport},
};
use rustls::ClientConfig;
use tonic::{Code, Status};

use super::{EnrollError, Enrolment, Hardware};
use crate::{
    channel, clock, config::Config, proto::v1::enroll_service_client::EnrollServiceClient,
    signer::Guest,
};

/// The request, up to what the collector draws.
pub(super) fn request(config: &Config, guest: &Guest, hardware: Hardware) -> GuestRequest {
    GuestRequest {
        deployment: config.deployment.to_string(),
        node: config.node.to_string(),
        transport_spki: guest.spki().to_vec(),
        chassis_serial: hardware.chassis_serial,
        devices: hardware.devices,
    }
}

pub(super) async fn enroll(
    config: &Config,
    tls: Arc<ClientConfig>,
    guest: &Guest,
    hardware: Hardware,
) -> Result<Enrolment, EnrollError> {
    let channel = channel::open(&config.collector.enroll, tls).await?;
    let mut client = EnrollServiceClient::new(channel);
    let asked = client.begin_guest(request(config, guest, hardware)).await;
    let challenge = asked.map_err(failed)?.into_inner();
    let nonce = Nonce::from_slice(&challenge.nonce)
        .map_err(|_length| EnrollError::Answer("a nonce that does not have 32 bytes"))?;
    let data = guest_transport_data(&config.deployment, &nonce, &guest.signer().key);
    let given = guest
        .report(data)
        .await
        .map_err(|why| EnrollError::Processor {
            refused: why.refused(),
            source: Box::new(why),
        })?;
    let proof = GuestProof {
        session: challenge.session,
        evidence: Some(TeeEvidence {
            report: Some(TeeReport {
                kind: given.kind.to_owned(),
                report: given.report,
            }),
            certificates: given.certificates,
            ..TeeEvidence::default()
        }),
    };
    let enrolled = client.finish_guest(proof).await.map_err(failed)?;
    Enrolment::from_message(enrolled.into_inner(), clock::now())
}

/// How the collector's words begin where its record failed, or approvers list no CA of it: that says
/// nothing of the guest.
const FAILED: [&str; 2] = ["store-failed:", "no-ca:"];

/// *Could not check* is told from *out of reach* and from *broken*: it has words of the collector's, and
/// no error of the connection behind it.
fn failed(status: Status) -> EnrollError {
    let of_connection = std::error::Error::source(&status).is_some();
    let mut failed = FAILED.iter();
    let broken = failed.any(|code| status.message().starts_with(code));
    match status.code() {
        Code::Unavailable if !of_connection && !broken => {
            EnrollError::Unchecked(status.message().to_owned())
        }
        _ => status.into(),
    }
}
