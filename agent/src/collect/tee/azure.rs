//! Azure's paravisor: it asks the processor in the guest's place, and lays the answer into its vTPM.
//!
//! The guest writes into one area what the report is to name, and reads the report from another. When
//! the paravisor makes a new one is its own affair; for a while the old one is still there. So it is
//! read until it names the question, and as it is once that has taken long enough: it still says whose
//! the AK is, and a profile may do without more.

use std::time::Duration;

use bailiwick_attestation::cvm::hcl::HclReport;
use tracing::warn;

use super::{Given, TeeError};
use crate::tpm::Tpm;

/// What envelopes call such a report.
pub(super) const KIND: &str = "azure-vtpm";
/// How often the report is looked at.
const LOOKS: u32 = 5;
/// Time between two looks. A paravisor makes a new report every two seconds at the most.
const PAUSE: Duration = Duration::from_millis(700);

/// The TPM that may have been laid a report into.
#[derive(Debug)]
pub(super) struct Paravisor {
    tpm: Tpm,
    pause: Duration,
    /// There is none: the area is made before the guest starts.
    absent: bool,
    /// It takes no questions.
    deaf: bool,
}

impl Paravisor {
    pub(super) const fn new(tpm: Tpm) -> Self {
        Self {
            tpm,
            pause: PAUSE,
            absent: false,
            deaf: false,
        }
    }

    /// Asks for a report; `None`: this is no such guest.
    pub(super) async fn ask(&mut self, data: &[u8; 64]) -> Result<Option<Given>, TeeError> {
        if self.absent {
            return Ok(None);
        }
        let Some(mut report) = self.read().await? else {
            self.absent = true;
            return Ok(None);
        };
        if !self.deaf
            && let Err(why) = self.tpm.ask_paravisor(*data).await
        {
            warn!(why = %crate::uplink::link::chain(&why), "the paravisor takes no question");
            self.deaf = true;
        }
        if !self.deaf {
            for _ in 0..LOOKS {
                report = self.read().await?.unwrap_or(report);
                if names(&report, data) {
                    break;
                }
                tokio::time::sleep(self.pause).await;
            }
        }
        Ok(Some(Given {
            kind: KIND,
            report,
            certificates: Vec::new(),
            manifest: Vec::new(),
        }))
    }

    async fn read(&self) -> Result<Option<Vec<u8>>, TeeError> {
        let read = self.tpm.paravisor_report().await;
        read.map_err(|why| TeeError::Tpm(Box::new(why)))
    }
}

/// Whether the answer is there. Whether it is any good is not asked.
fn names(report: &[u8], data: &[u8; 64]) -> bool {
    let report = HclReport::parse(report).ok();
    let runtime = report.and_then(|report| report.runtime().ok());
    runtime.is_some_and(|runtime| runtime.question == Some(*data))
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::cvm::hcl::{NV_INDEX, QUESTION_INDEX};

    use super::*;
    use crate::collect::tee::Tee;
    use crate::config::TeeSection;
    use crate::tpm::testing::SoftTpm;

    /// The content of the area about a question; no processor signed it.
    fn content(question: &[u8]) -> Vec<u8> {
        let n = format!("sw{}", "A".repeat(340));
        let key =
            format!(r#"{{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"{n}"}}"#);
        let question = hex::encode(question);
        let text = format!(r#"{{"keys":[{key}],"user-data":"{question}"}}"#);
        let length = u32::try_from(text.len()).unwrap();
        let words = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let head = words(&[0x414c_4348, 1, 0, 2, 0, 0, 0, 0]);
        let request = words(&[20 + length, 1, 2, 1, length]);
        [&head[..], &[7; 1184], &request, text.as_bytes()].concat()
    }

    fn tee(soft: &SoftTpm, tpm: &Tpm) -> Tee {
        let section = TeeSection {
            reports: soft.path("none"),
            device: soft.path("none"),
            ..TeeSection::default()
        };
        let mut tee = Tee::new(&section).beside(tpm);
        tee.paravisor.as_mut().unwrap().pause = Duration::from_millis(20);
        tee
    }

    #[tokio::test]
    async fn a_paravisor_is_asked_and_waited_for() {
        let soft = SoftTpm::blank();
        let tpm = Tpm::open(soft.settings()).unwrap();
        let mut none = tee(&soft, &tpm);
        assert_eq!(none.evidence([7; 64]).await, None, "no such guest");
        assert_eq!(none.claims(), []);

        // It makes a new report some time after it was asked.
        tpm.lay(NV_INDEX, content(&[1; 64])).await;
        let (own, stop) = (tpm.clone(), tokio_util::sync::CancellationToken::new());
        let stopping = stop.clone();
        let paravisor = tokio::spawn(async move {
            while !stopping.is_cancelled() {
                if let Some(question) = own.asked(QUESTION_INDEX).await {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    own.lay(NV_INDEX, content(&question)).await;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let mut asking = tee(&soft, &tpm);
        for data in [[7; 64], [8; 64]] {
            let evidence = asking.evidence(data).await.unwrap();
            let report = evidence.report.unwrap();
            assert_eq!(report.kind, KIND);
            assert_eq!(report.report, content(&data));
        }
        let said = asking.claims();
        assert_eq!(
            (said[0].name.as_str(), said[0].source.as_str()),
            ("tee.report", "tpm")
        );
        // What is there already is not waited for.
        let mut at_once = tee(&soft, &tpm);
        at_once.paravisor.as_mut().unwrap().pause = Duration::from_secs(3600);
        let asked = tokio::time::timeout(Duration::from_secs(20), at_once.evidence([8; 64]));
        let evidence = asked.await.expect("an answer at once").unwrap();
        assert_eq!(evidence.report.unwrap().report, content(&[8; 64]));
        stop.cancel();
        paravisor.await.unwrap();
        // One that makes none leaves the old one, which still names the AK.
        let evidence = asking.evidence([9; 64]).await.unwrap();
        assert_eq!(evidence.report.unwrap().report, content(&[8; 64]));
        // Where there was none, nobody looks again.
        assert_eq!(none.evidence([7; 64]).await, None);
    }
}
