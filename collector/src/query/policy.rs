//! An operator brings what approvers signed.

use bailiwick_attestation::proto::v1;
use tonic::{Status, Streaming};
use tracing::warn;

use super::Query;
use crate::auth::OperatorPeer;
use crate::clock;
use crate::direct::{ApplyError, Collect};
use crate::ingest::{error_chain, store_failed};

impl Query {
    pub(super) async fn apply(
        &self,
        operator: &OperatorPeer,
        mut upload: Streaming<v1::PolicyChunk>,
    ) -> Result<v1::ApplyPolicyResponse, Status> {
        let mut collect = Collect::default();
        while let Some(chunk) = upload.message().await? {
            collect.push(&chunk).map_err(|refused| {
                Status::invalid_argument(format!("policy-too-large: {refused}"))
            })?;
        }
        let applied = self
            .director
            .apply(collect.finish(), operator.name.as_str(), clock::now())
            .await;
        match applied {
            Ok(policy) => Ok(v1::ApplyPolicyResponse {
                version: policy.version(),
                manifest_digest: policy.manifest_digest().as_bytes().to_vec(),
            }),
            Err(ApplyError::Refused(refused)) => {
                warn!(by = %operator.name, code = refused.code(), "policy refused");
                Err(Status::failed_precondition(format!(
                    "{}: {refused}",
                    refused.code()
                )))
            }
            Err(ApplyError::Malformed(error)) => Err(Status::invalid_argument(format!(
                "policy-malformed: {error}"
            ))),
            Err(ApplyError::Store(error)) => Err(store_failed(error)),
            Err(error @ ApplyError::Check(_)) => Err(Status::internal(error_chain(&error))),
        }
    }
}
