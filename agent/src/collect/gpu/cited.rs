//! What GPUs said, as it travels: bytes that a statement cites by digest.

use bailiwick_attestation::{
    Sha256Digest,
    evidence::Nonce,
    proto::v1::{GpuChains, GpuCitation, GpuMode, GpuReport, GpuReports},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;

use super::Collected;

/// Name of the log of reports, and of the log of chains.
pub const LOGS: [&str; 2] = ["gpu", "gpu-chains"];
/// Most characters of a reason or a name.
const WORDS: usize = 300;

/// One collection.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cited {
    /// What a statement says of it.
    pub citation: GpuCitation,
    /// The logs, as [`LOGS`] names them.
    pub logs: [Vec<u8>; 2],
}

/// Packs what was collected in answer to `challenge`.
#[must_use]
pub fn cited(collected: &Collected, challenge: &Nonce, asked_boot_ns: u64) -> Cited {
    let clip = |text: &str| text.chars().take(WORDS).collect::<String>();
    let mode = collected.mode.as_ref().ok().map(|mode| GpuMode {
        enabled: mode.enabled,
        devtools: mode.devtools,
        environment: mode.environment,
        multi_gpu: mode.multi_gpu.as_ref().ok().copied(),
        ready: mode.ready.as_ref().ok().copied(),
    });
    let mut reports = GpuReports {
        count: collected.count.as_ref().ok().copied(),
        stopped: collected.stopped.as_deref().map(clip).unwrap_or_default(),
        mode,
        ..GpuReports::default()
    };
    let mut chains = GpuChains::default();
    for one in &collected.evidence {
        // The child packed them: what is not base64 is no answer of it.
        let unpacked = (
            STANDARD.decode(&one.evidence),
            STANDARD.decode(&one.certificate),
        );
        let (Ok(report), Ok(chain)) = unpacked else {
            "the probe's answer is not base64".clone_into(&mut reports.stopped);
            break;
        };
        reports.reports.push(GpuReport {
            uuid: clip(&one.uuid),
            report,
        });
        chains.chains.push(chain);
    }
    let logs = [reports.encode_to_vec(), chains.encode_to_vec()];
    let digest = |log: &Vec<u8>| Sha256Digest::of(&[log]).0.to_vec();
    let [reports, chains] = &logs;
    Cited {
        citation: GpuCitation {
            reports: digest(reports),
            chains: digest(chains),
            challenge: challenge.as_bytes().to_vec(),
            asked_boot_ns,
        },
        logs,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Evidence, Mode};
    use super::*;

    #[test]
    fn what_was_collected_is_packed_and_named() {
        let one = |evidence: &str| Evidence {
            nonce: String::new(),
            evidence: evidence.to_owned(),
            certificate: "Y2hhaW4=".to_owned(),
            uuid: "GPU-1".to_owned(),
        };
        let mut collected = Collected {
            mode: Ok(Mode {
                enabled: true,
                devtools: false,
                environment: 2,
                multi_gpu: Err("old".to_owned()),
                ready: Ok(true),
            }),
            count: Ok(2),
            evidence: vec![one("cmVwb3J0"), one("cmVwb3J0")],
            stopped: Some("x".repeat(WORDS + 1)),
        };
        let nonce = Nonce::new([3; 32]);
        let packed = cited(&collected, &nonce, 7);
        let reports = GpuReports::decode(&*packed.logs[0]).unwrap();
        let chains = GpuChains::decode(&*packed.logs[1]).unwrap();
        let report = GpuReport {
            uuid: "GPU-1".to_owned(),
            report: b"report".to_vec(),
        };
        let want = GpuReports {
            count: Some(2),
            stopped: "x".repeat(WORDS),
            mode: Some(GpuMode {
                enabled: true,
                devtools: false,
                environment: 2,
                multi_gpu: None,
                ready: Some(true),
            }),
            reports: vec![report; 2],
        };
        assert_eq!(reports, want);
        assert_eq!(chains.chains, [b"chain", b"chain"]);
        let digest = |log: &Vec<u8>| Sha256Digest::of(&[log]).0.to_vec();
        let want = GpuCitation {
            reports: digest(&packed.logs[0]),
            chains: digest(&packed.logs[1]),
            challenge: vec![3; 32],
            asked_boot_ns: 7,
        };
        assert_eq!(packed.citation, want);
        assert_eq!(
            packed,
            cited(&collected, &nonce, 7),
            "the same bytes each time"
        );
        collected.evidence[1] = one("?");
        collected.stopped = None;
        let packed = cited(&collected, &nonce, 7);
        let reports = GpuReports::decode(&*packed.logs[0]).unwrap();
        assert_eq!(reports.stopped, "the probe's answer is not base64");
        assert_eq!(reports.reports.len(), 1);
    }
}
