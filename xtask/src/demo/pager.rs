//! The end of the chain: a real Alertmanager, and the receiver it would wake a person through.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::daemon::{Daemon, tied};
use super::scene::Scene;
use crate::cmd;

/// One notification may carry many alerts; more than this is not ours.
const BODY_LIMIT: u64 = 1 << 20;

/// `firing` or `resolved`, with the alert's labels.
#[derive(Clone, Debug)]
pub struct Notice {
    pub status: String,
    pub alertname: String,
    pub node: String,
}

/// Alertmanager and what it has sent.
#[derive(Debug)]
pub struct Pager {
    port: u16,
    process: Daemon,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Pager {
    pub fn start(scene: &Scene) -> Result<Self> {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let webhook = webhook(Arc::clone(&notices))?;
        let config = scene.path("alertmanager.yml");
        let text = format!(
            "route:\n  receiver: person\n  group_by: [alertname, node]\n  group_wait: 1s\n  group_interval: 1s\n  repeat_interval: 1h\n\
             receivers:\n  - name: person\n    webhook_configs:\n      - url: http://127.0.0.1:{webhook}/\n        send_resolved: true\n"
        );
        fs::write(&config, text).context("configure Alertmanager")?;
        let port = free_port()?;
        let mut command =
            tied(cmd::find("prometheus-alertmanager").context("it was installed above")?);
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                scene.path("alertmanager").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=");
        let mut process = Daemon::start(scene, "alertmanager", &mut command)?;
        scene.wait("Alertmanager", Duration::from_secs(20), || {
            process.alive()?;
            TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .context("connect to Alertmanager")
                .map(drop)
        })?;
        Ok(Self {
            port,
            process,
            notices,
        })
    }

    /// Where the collector sends alerts.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Fails until a notice of this status came for this alert, later than the first `after`.
    pub fn heard(&self, status: &str, alertname: &str, after: usize) -> Result<Notice> {
        let notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        let later = notices.get(after..).unwrap_or_default();
        let found = later
            .iter()
            .find(|n| n.status == status && n.alertname == alertname);
        found
            .cloned()
            .with_context(|| format!("no {status} {alertname} among {later:?}"))
    }

    /// How many notices came so far.
    pub fn count(&self) -> usize {
        self.notices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    pub fn alive(&mut self) -> Result<()> {
        self.process.alive()
    }
}

/// A port nobody listens on now. Whoever takes it first makes the demo fail, and say so.
pub fn free_port() -> Result<u16> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(probe.local_addr().context("find a free port")?.port())
}

/// Receives what Alertmanager posts.
fn webhook(notices: Arc<Mutex<Vec<Notice>>>) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("open the webhook")?;
    let port = listener.local_addr().context("open the webhook")?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let notices = Arc::clone(&notices);
            thread::spawn(move || drop(receive(&stream, &notices)));
        }
    });
    Ok(port)
}

/// Reads posts from one connection until it closes.
fn receive(stream: &TcpStream, notices: &Mutex<Vec<Notice>>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut length = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line).context("read a header")? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value
                    .trim()
                    .parse::<u64>()
                    .context("read the length")?
                    .min(BODY_LIMIT);
            }
        }
        let mut body = Vec::new();
        (&mut reader)
            .take(length)
            .read_to_end(&mut body)
            .context("read the body")?;
        let post: Value = serde_json::from_slice(&body).context("read the post")?;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = post["alerts"].as_array().cloned().unwrap_or_default();
        notices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(alerts.iter().map(|alert| Notice {
                status: word(&alert["status"]),
                alertname: word(&alert["labels"]["alertname"]),
                node: word(&alert["labels"]["node"]),
            }));
        writer
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .context("answer")?;
    }
}
