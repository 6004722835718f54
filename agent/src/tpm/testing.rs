//! A software TPM of a test's own.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{AkKind, Bank, EkKind, Settings, Tcti, Tpm, nv};

/// One `swtpm` process with state in a temporary folder; killed when dropped.
pub(crate) struct SoftTpm {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl SoftTpm {
    /// A blank TPM: seeds of its own, no certificates.
    pub(crate) fn blank() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("tpm")).unwrap();
        Self::start(folder)
    }

    /// A TPM with EK certificates of a manufacturer of its own (RSA-2048 and P-384).
    pub(crate) fn manufactured() -> Self {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(at("tpm")).unwrap();
        std::fs::create_dir(at("ca")).unwrap();
        std::fs::write(
            at("localca.conf"),
            format!(
                "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuer.pem\n\
                 certserial = {ca}/serial\n",
                ca = at("ca")
            ),
        )
        .unwrap();
        std::fs::write(
            at("localca.options"),
            "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n",
        )
        .unwrap();
        std::fs::write(
            at("setup.conf"),
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {}\n\
                 create_certs_tool_options = {}\nactive_pcr_banks = sha256,sha384\n",
                at("localca.conf"),
                at("localca.options")
            ),
        )
        .unwrap();
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--lock-nvram"])
            .args(["--tpmstate", &at("tpm"), "--config", &at("setup.conf")])
            .output()
            .expect("swtpm_setup is installed");
        assert!(output.status.success(), "{output:?}");
        Self::start(folder)
    }

    fn start(folder: TempDir) -> Self {
        // The control channel is the port after the data port; another process may take either
        // between our look and swtpm's bind, so look again.
        for _ in 0..50 {
            let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = probe.local_addr().unwrap().port();
            let Some(next) = port.checked_add(1) else {
                continue;
            };
            if TcpListener::bind((Ipv4Addr::LOCALHOST, next)).is_err() {
                continue;
            }
            drop(probe);
            if let Some(child) = spawn(&folder.path().join("tpm"), port) {
                return Self {
                    folder,
                    port,
                    child,
                };
            }
        }
        panic!("no pair of ports for swtpm");
    }

    /// TPM reset, as by a reboot of the machine.
    pub(crate) fn reboot(&mut self) {
        self.stop();
        self.child = spawn(&self.folder.path().join("tpm"), self.port).expect("the same ports");
    }

    /// Off, with nothing listening.
    pub(crate) fn stop(&mut self) {
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            tcti: Tcti::try_from(format!("swtpm:host=127.0.0.1,port={}", self.port)).unwrap(),
            ek: EkKind::default(),
            ak: AkKind::default(),
            ak_handle: None,
            bank: Bank::default(),
            pcrs: vec![0, 1, 2, 3, 4, 5, 6, 7],
            keys: self.path("keys"),
        }
    }

    /// Runs one of tpm2-tools; nobody else may be connected.
    pub(crate) fn tool(&self, command: &str) {
        let mut words = command.split_whitespace();
        let output = Command::new(words.next().unwrap())
            .args(words)
            .env("TPM2TOOLS_TCTI", self.settings().tcti.to_string())
            .current_dir(self.folder.path())
            .output()
            .expect("tpm2-tools are installed");
        assert!(output.status.success(), "{command}: {output:?}");
    }

    /// A restricted RSA key at this persistent handle, and nothing loaded.
    pub(crate) fn key_at(&self, handle: u32) {
        self.tool("tpm2_createprimary -C o -c parent.ctx");
        self.tool(
            "tpm2_create -C parent.ctx -G rsa2048:rsassa-sha256:null -u ak.pub -r ak.priv \
             -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign",
        );
        self.tool("tpm2_flushcontext -t");
        self.tool("tpm2_load -C parent.ctx -u ak.pub -r ak.priv -c ak.ctx");
        self.tool("tpm2_flushcontext -t");
        self.tool(&format!("tpm2_evictcontrol -C o -c ak.ctx {handle:#x}"));
        self.tool("tpm2_flushcontext -t");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Tpm {
    /// What a paravisor does: lays this into an area, whoever wrote there before.
    pub(crate) async fn lay(&self, index: u32, content: Vec<u8>) {
        self.call(move |device| {
            device.with_session("lay", |session| {
                nv::write_parts(&mut session.context, index, &content)
            })
        })
        .await
        .unwrap();
    }

    /// What the guest asked.
    pub(crate) async fn asked(&self, index: u32) -> Option<Vec<u8>> {
        let read = self.call(move |device| {
            device.with_session("read", |session| {
                nv::read_whole(&mut session.context, index, 64)
            })
        });
        read.await.unwrap()
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(state: &std::path::Path, port: u16) -> Option<Child> {
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", state.display()))
        .arg("--server")
        .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
        .arg("--ctrl")
        .arg(format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1))
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("swtpm is installed");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        // The control channel, for a connection to the data port would be the first client's.
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return Some(child);
        }
        thread::sleep(Duration::from_millis(10));
    }
    drop(child.kill());
    drop(child.wait());
    None
}
