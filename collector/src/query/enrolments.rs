//! Enrolments as answers: who waits, who is in, who never came, who is out; the relay of an
//! approver's challenge; and acts with their receipts.

use std::collections::HashSet;
use std::time::Duration;

use aws_lc_rs::rand;
use bailiwick_attestation::appraisal::{AkWord, Enrolled};
use bailiwick_attestation::evidence::GuestSigner;
use bailiwick_attestation::proto::v1::{self, activation_answer::Answer};
use bailiwick_attestation::tlog::ActKind;
use bailiwick_policy::model::Node;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::Status;
use tracing::info;

use super::Query;
use super::nodes::state;
use crate::auth::OperatorPeer;
use crate::direct::{Policy, node_name, pending_name};
use crate::identity::{Makers, Presented, ak_word};
use crate::ingest::{Command, store_failed};
use crate::record::NodeRow;

/// Longest credential blob or encrypted secret: RSA of 4096 bits needs 514 bytes.
const CREDENTIAL: usize = 1024;
/// Longest secret or refusal a node may answer with.
const ANSWER: usize = 1024;
/// How long a node's TPM may take: some need seconds to make an RSA EK.
const ACTIVATION: Duration = Duration::from_secs(30);
/// Acts where nobody said how many.
const ACTS_DEFAULT: u32 = 100;

impl Query {
    pub(super) async fn enrolments(&self) -> Result<v1::ListEnrolmentsResponse, Status> {
        let current = self.director.current();
        let policy = current.as_deref();
        let mut enrolments = Vec::new();
        let mut known = HashSet::new();
        for row in self.store.node_list().await.map_err(store_failed)? {
            // The list leaves out what each enrolled with.
            let row = self.store.node_get(&row.ek).await.map_err(store_failed)?;
            if let Some(row) = row {
                known.insert(row.ek);
                enrolments.push(self.enrolment(&row, policy));
            }
        }
        let inventory = policy.map(|policy| &policy.verified().model.inventory);
        let nodes = inventory.map_or(&[][..], |inventory| &inventory.nodes);
        enrolments.extend(nodes.iter().filter(|n| !known.contains(&n.ek)).map(absent));
        let retired = inventory.map_or(&[][..], |inventory| &inventory.retired);
        for gone in retired.iter().filter(|gone| !known.contains(&gone.ek)) {
            enrolments.push(v1::EnrolmentSummary {
                node: gone.name.to_string(),
                state: "retired".to_owned(),
                ek_digest: gone.ek.as_bytes().to_vec(),
                reason: gone.reason.clone(),
                ..v1::EnrolmentSummary::default()
            });
        }
        enrolments.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(v1::ListEnrolmentsResponse { enrolments })
    }

    fn enrolment(&self, row: &NodeRow, policy: Option<&Policy>) -> v1::EnrolmentSummary {
        let listed = policy.and_then(|policy| policy.listed(&row.ek));
        let retired = policy.and_then(|policy| policy.retired(&row.ek));
        let request = row.enrolment.request.as_ref();
        let own = row.enrolment.guest.as_ref();
        let own = own.and_then(|guest| guest.request.as_ref());
        let serial = match (request, own) {
            (Some(request), _) => request.chassis_serial.as_str(),
            (None, Some(guest)) => guest.chassis_serial.as_str(),
            (None, None) => "",
        };
        let guest = GuestSigner::key_named(&row.ak_name).is_some();
        let name = match (listed, row.listed_name.as_str()) {
            (Some(_), _) | (None, "") => node_name(policy, &row.ek),
            (None, former) => former.to_owned(),
        };
        let epoch = row.newest.as_ref().map_or(0, |newest| newest.epoch);
        let acknowledged = listed.map_or(0, |node| node.epoch);
        let reason = match (retired, listed) {
            (Some(why), _) => why.to_owned(),
            (None, None) if guest => {
                "not in the signed inventory: sign its [[guest]] entry".to_owned()
            }
            (None, None) => format!(
                "not in the signed inventory: bailiwick enroll approve {}",
                pending_name(&row.ek)
            ),
            (None, Some(_)) if epoch > acknowledged => {
                format!("it lost its log or AK: sign epoch = {epoch} in its entry")
            }
            (None, Some(_)) => String::new(),
        };
        v1::EnrolmentSummary {
            node: name,
            state: state(policy, &row.ek).to_owned(),
            ek_digest: row.ek.as_bytes().to_vec(),
            ak_name: row.ak_name.clone(),
            ak: self.whose_word(row, policy),
            claimed: row.claimed_name.clone(),
            chassis_serial: serial.to_owned(),
            devices: row.devices.clone(),
            enrolled_ms: row.enrolled.millis(),
            connected: self.streams.connected(&row.ek),
            epoch,
            acknowledged_epoch: acknowledged,
            reason,
            guest,
        }
    }

    /// Whose word it is that the node's AK and EK are one TPM's, or that a guest's key is its own.
    pub(super) fn whose_word(&self, row: &NodeRow, policy: Option<&Policy>) -> String {
        let signer = Enrolled::of(&row.enrolment);
        let (Some(policy), Ok(signer)) = (policy, signer) else {
            return AkWord::Collector.to_string();
        };
        let presented = Presented {
            deployment: policy.deployment(),
            enrolment: &row.enrolment,
            ek: &row.ek,
            signer: &signer,
        };
        let makers = Makers {
            roots: &self.trust.iak_roots,
            intermediates: &self.trust.iak_intermediates,
        };
        let listed = policy.listed(&row.ek);
        ak_word(&presented, listed, policy.approvers(), &makers).to_string()
    }

    /// Bytes to the node's TPM and back. Nothing of them is looked at, or kept.
    pub(super) async fn relay(
        &self,
        operator: &OperatorPeer,
        request: v1::RelayActivationRequest,
    ) -> Result<v1::ActivationAnswer, Status> {
        for (field, bytes) in [
            ("credential_blob", &request.credential_blob),
            ("encrypted_secret", &request.encrypted_secret),
        ] {
            if bytes.is_empty() || bytes.len() > CREDENTIAL {
                return Err(Status::invalid_argument(format!(
                    "credential-length: {field} must have 1 to {CREDENTIAL} bytes"
                )));
            }
        }
        let (row, _) = self.find(&request.node).await?;
        if GuestSigner::key_named(&row.ak_name).is_some() {
            return Err(Status::failed_precondition(
                "guest-no-tpm: a guest without a TPM opens no credential; its processor speaks for it, \
                 and its [[guest]] entry is what approvers sign",
            ));
        }
        let mut id = vec![0; 16];
        rand::fill(&mut id).map_err(|_unspecified| Status::internal("no randomness"))?;
        let activation = v1::Activation {
            id,
            credential_blob: request.credential_blob,
            encrypted_secret: request.encrypted_secret,
        };
        let (sender, answer) = oneshot::channel();
        if !self
            .streams
            .command(&row.ek, Command::Activate(activation, sender))
        {
            return Err(Status::unavailable(
                "node-unreachable: it has no open stream, or too much waits on it",
            ));
        }
        info!(ek = %row.ek, by = %operator.name, "a credential is passed on");
        let answer = match timeout(ACTIVATION, answer).await {
            Err(_elapsed) => {
                return Err(Status::deadline_exceeded(
                    "activation-unanswered: the node did not answer in 30 s",
                ));
            }
            Ok(Err(_dropped)) => {
                return Err(Status::unavailable(
                    "activation-dropped: the stream ended, or too many are under way",
                ));
            }
            Ok(Ok(answer)) => answer,
        };
        let length = match &answer.answer {
            None => 0,
            Some(Answer::Secret(secret)) => secret.len(),
            Some(Answer::Refused(why)) => why.len(),
        };
        if length > ANSWER {
            return Err(Status::out_of_range(
                "activation-answer: the node answered with more than a secret",
            ));
        }
        Ok(answer)
    }

    pub(super) async fn acts(
        &self,
        request: v1::ListActsRequest,
    ) -> Result<v1::ListActsResponse, Status> {
        let ek = match request.node.as_str() {
            "" => None,
            name => Some(self.find(name).await?.0.ek),
        };
        let kind = match request.kind.as_str() {
            "" => None,
            word => Some(ActKind::from_word(word).ok_or_else(|| {
                Status::invalid_argument(format!("act-kind: {word:?} is no kind of act"))
            })?),
        };
        let limit = match request.limit {
            0 => ACTS_DEFAULT,
            limit => limit,
        };
        let acts = self.store.act_list(ek.as_ref(), kind, limit).await;
        Ok(v1::ListActsResponse {
            acts: acts.map_err(store_failed)?,
        })
    }
}

/// A node the inventory lists and nothing was heard of.
fn absent(node: &Node) -> v1::EnrolmentSummary {
    v1::EnrolmentSummary {
        node: node.name.to_string(),
        state: "never-enrolled".to_owned(),
        ek_digest: node.ek.as_bytes().to_vec(),
        chassis_serial: node.chassis_serial.clone().unwrap_or_default(),
        acknowledged_epoch: node.epoch,
        reason: match node.guest {
            Some(_) => "it never enrolled",
            None => "its TPM never enrolled",
        }
        .to_owned(),
        guest: node.guest.is_some(),
        ..v1::EnrolmentSummary::default()
    }
}
