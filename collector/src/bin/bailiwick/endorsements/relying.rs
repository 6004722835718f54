//! Which nodes rely on which document, as the collector's newest results say.

use std::collections::BTreeMap;

use bailiwick_attestation::appraisal::ENDORSEMENTS;
use bailiwick_attestation::proto::v1;
use serde_json::Value;
use tonic::Status;

use crate::client::{Connection, block_on};

/// Names of nodes by the digest of a document, hex.
pub(super) type Relying = BTreeMap<String, Vec<String>>;

/// Asks for every node's newest result.
pub(super) fn ask(connection: &Connection) -> anyhow::Result<Result<Relying, Status>> {
    block_on(async {
        let mut client = connection.open().await?;
        let nodes = match client.list_nodes(v1::ListNodesRequest::default()).await {
            Ok(answer) => answer.into_inner().nodes,
            Err(status) => return Ok(Err(status)),
        };
        let mut relying = Relying::new();
        for node in nodes.into_iter().filter(|node| node.statements > 0) {
            let request = v1::GetNodeRequest {
                node: node.node.clone(),
                at_ms: None,
            };
            match client.get_node(request).await {
                Ok(answer) => add(&mut relying, &node.node, &answer.into_inner().result),
                Err(status) => return Ok(Err(status)),
            }
        }
        Ok(Ok(relying))
    })
}

/// Adds what one result hangs on.
pub(super) fn add(relying: &mut Relying, node: &str, result: &[u8]) {
    let result: Value = serde_json::from_slice(result).unwrap_or_default();
    let documents = result.get(ENDORSEMENTS).and_then(Value::as_array);
    for digest in documents.into_iter().flatten().filter_map(Value::as_str) {
        let nodes = relying.entry(digest.to_owned()).or_default();
        nodes.push(node.to_owned());
    }
}
