//! RDMA over Ethernet by a card in software: no socket of the attacker's sends anything.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::Shot;
use crate::actor::Tried;
use crate::pace::paced;
use crate::rdma::{CARD, gid_of};

/// It gives up after eight times 67 ms.
const PATIENCE: Duration = Duration::from_secs(3);
/// Its send is number 2, and ended without an answer. 6.1 tries for ever where the card's packets
/// are refused; 6.12 gives that queue pair up, and what waits in it is flushed.
const SENT: &str = "for wr_id 2";
/// What both ends of `ibv_rc_pingpong` tell each other by TCP, with its end: LID, number of the
/// queue pair, number of the first packet, GID.
const EXCHANGED: usize = "0000:000000:000000:00000000000000000000000000000000".len() + 1;

/// A queue pair whose other end is at `to`, which nobody there knows of: the kernel asks again and
/// again. The two programs' exchange is answered here.
pub(super) fn roce(shot: &Shot) -> Result<Tried> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (shot.from, shot.to) else {
        bail!("{} and {} are not IPv4", shot.from, shot.to);
    };
    let index = index_of(from)?;
    let other_end = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    let port = other_end.local_addr().context("its port")?.port();
    thread::spawn(move || answer(&other_end, to));
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        let mut child = Command::new("ibv_rc_pingpong")
            .args(["-d", CARD, "-n", "1", "-g", &index.to_string()])
            .args(["-p", &port.to_string(), "127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ibv_rc_pingpong, of ibverbs-utils")?;
        let end = Instant::now() + paced(PATIENCE);
        let mut trying = true;
        while trying && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
            trying = child.try_wait().context("look after it")?.is_none();
        }
        if trying {
            child.kill().context("end it")?;
        }
        let out = child.wait_with_output().context("wait for its end")?;
        let said = String::from_utf8_lossy(&out.stderr);
        let refused = said.contains("Couldn't get context");
        ensure!(
            refused || trying || said.contains(SENT),
            "it did not come so far as to send: {said}{}",
            String::from_utf8_lossy(&out.stdout)
        );
        tried.once(if refused {
            Err(io::Error::from_raw_os_error(libc::EPERM))
        } else {
            Ok(())
        });
    }
    Ok(tried)
}

/// Which of the card's addresses is ours.
fn index_of(from: Ipv4Addr) -> Result<u32> {
    let folder = format!("/sys/class/infiniband/{CARD}/ports/1/gids");
    let wanted = gid_of(from);
    for index in 0..64 {
        let Ok(text) = fs::read_to_string(format!("{folder}/{index}")) else {
            break;
        };
        if text.trim().replace(':', "") == wanted {
            return Ok(index);
        }
    }
    bail!("{CARD} does not have {from}")
}

fn answer(listener: &TcpListener, to: Ipv4Addr) {
    for mut stream in listener.incoming().flatten() {
        let mut theirs = [0; EXCHANGED];
        if stream.read_exact(&mut theirs).is_err() {
            continue;
        }
        let ours = format!("0000:000011:000001:{}\0", gid_of(to));
        drop(stream.write_all(ours.as_bytes()));
        // Until it is done with us.
        drop(stream.read_to_end(&mut Vec::new()));
    }
}
