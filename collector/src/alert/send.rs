//! Alertmanager's API v2: one POST of all due alerts to every configured receiver.

use std::time::Duration;

use bailiwick_attestation::UnixTime;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config;
use crate::record::AlertRow;

/// Longest a receiver may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a receiver was not told.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It could not be reached, or did not answer in time.
    #[error("{url}: {source:#}")]
    Http {
        /// The receiver.
        url: String,
        /// Why.
        source: reqwest::Error,
    },
    /// It refused.
    #[error("{url}: answered {status}")]
    Status {
        /// The receiver.
        url: String,
        /// HTTP status.
        status: u16,
    },
}

/// Posts to every receiver.
#[derive(Debug)]
pub struct Sender {
    client: reqwest::Client,
    urls: Vec<String>,
    end_after_ms: u64,
    runbook_url: Option<String>,
}

impl Sender {
    /// For the receivers of the configuration.
    #[must_use]
    pub fn new(config: &config::Alert) -> Self {
        // reqwest takes the process's provider; whoever installed one first is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let urls = config
            .alertmanagers
            .iter()
            .map(|base| format!("{}/api/v2/alerts", base.trim_end_matches('/')))
            .collect();
        // No proxy and no redirect: an alert goes where the configuration says or nowhere.
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap_or_default();
        Self {
            client,
            urls,
            end_after_ms: config.resend_seconds.saturating_mul(4000),
            runbook_url: config.runbook_url.clone(),
        }
    }

    /// Tells every receiver; an error names the first that was not told, after trying all.
    pub async fn post(&self, rows: &[&AlertRow], now: UnixTime) -> Result<(), SendError> {
        let body: Vec<Value> = rows.iter().map(|row| self.body(row, now)).collect();
        let mut outcome = Ok(());
        for url in &self.urls {
            if let Err(error) = self.post_one(url, &body).await
                && outcome.is_ok()
            {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn post_one(&self, url: &str, body: &[Value]) -> Result<(), SendError> {
        let sent = self.client.post(url).json(body).send().await;
        let response = sent.map_err(|source| SendError::Http {
            url: url.to_owned(),
            source,
        })?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(SendError::Status {
            url: url.to_owned(),
            status: response.status().as_u16(),
        })
    }

    /// A firing alert ends by itself if it is not told again: four times the interval, so that
    /// one lost message does not read as the end.
    fn body(&self, row: &AlertRow, now: UnixTime) -> Value {
        let labels: Value = serde_json::from_str(&row.alert.labels).unwrap_or_default();
        let after = match row.resolved {
            None => self.end_after_ms,
            Some(_) => 0,
        };
        let ends = now.millis().saturating_add(after);
        let mut annotations = json!({ "summary": row.alert.summary });
        if let Some(base) = &self.runbook_url {
            let url = format!("{}/{}", base.trim_end_matches('/'), row.alert.name);
            annotations["runbook_url"] = url.into();
        }
        json!({
            "labels": labels,
            "annotations": annotations,
            "startsAt": rfc3339(row.since.millis()),
            "endsAt": rfc3339(ends),
        })
    }
}

fn rfc3339(ms: u64) -> String {
    let nanos = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}
