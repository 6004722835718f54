//! Profiles as data: drafted from what a good node showed, and what comes of holding it against them.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod booted;
mod stand;

use std::path::PathBuf;
use std::process::{Command, Output};

use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::proto::v1;
use booted::{Booted, REGISTERS};
use prost::Message as _;
use stand::{Came, Conversation, Machine, Stand, entry};

/// A node of a stand, through its boots.
struct Node {
    machine: Machine,
    booted: Booted,
    stream: Conversation,
    last: v1::Statement,
    logs_sent: bool,
}

impl Node {
    async fn new(stand: &mut Stand, name: &str, booted: Booted) -> Self {
        let tools: Vec<String> = booted.extends();
        let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
        let mut machine = stand.machine_quoting(name, &tools, &REGISTERS);
        let manifest = stand.apply(&entry(name, &machine)).await;
        stand.meet(&mut machine);
        let enrolled = machine.enroll(&stand.maker).await;
        let stream = machine.stream(&enrolled).await.unwrap();
        let last = machine.statement(stand, Some(manifest));
        Self {
            machine,
            booted,
            stream,
            last,
            logs_sent: false,
        }
    }

    /// Another boot of the same machine.
    async fn reboot(self, stand: &Stand, booted: Booted) -> Self {
        let Self { machine, last, .. } = self;
        let machine = machine.rebooted(&booted.extends(), &REGISTERS);
        let enrolled = machine.enroll(&stand.maker).await;
        let stream = machine.stream(&enrolled).await.unwrap();
        let mut last = last;
        last.boot_id = vec![last.boot_id[0] + 1; 16];
        Self {
            machine,
            booted,
            stream,
            last,
            logs_sent: false,
        }
    }

    /// The next statement; the first of a boot brings its logs along.
    async fn say(&mut self) -> v1::Accepted {
        let logs = self.booted.logs();
        let digest = |log: &v1::Log| v1::LogDigest {
            name: log.name.clone(),
            sha256: Sha256Digest::of(&[&log.content]).as_bytes().to_vec(),
            ..v1::LogDigest::default()
        };
        self.last.logs = logs.iter().map(digest).collect();
        self.last.wall_time_ms = bailiwick_collector::clock::now().millis();
        let bytes = self.last.encode_to_vec();
        let mut evidence = self.machine.quote(&bytes, self.stream.nonce).await;
        if !self.logs_sent {
            evidence.logs = logs;
        }
        let came = self.stream.evidence(evidence).await.unwrap();
        let Came::Accepted(accepted, _) = came else {
            panic!("{came:?}");
        };
        self.logs_sent = true;
        self.last.sequence += 1;
        self.last.previous = Some(Sha256Digest::of(&[&bytes]).as_bytes().to_vec());
        accepted
    }

    /// The policy that the node says it enforces from now on.
    fn enforces(&mut self, stand: &Stand, manifest: Sha256Digest) {
        self.last.policy = self.machine.statement(stand, Some(manifest)).policy;
    }
}

/// The client, beside the collector in this process.
async fn client(stand: &Stand, words: &[&str]) -> Output {
    let here = std::env::current_exe().unwrap();
    let program: PathBuf = here.ancestors().nth(2).unwrap().join("bailiwick");
    let mut command = Command::new(program);
    command
        .args(words)
        .arg("--config")
        .arg(stand.client_config());
    tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_affirms_the_node_it_was_drafted_from_and_no_other_boot() {
    let mut stand = Stand::new().await;
    let mut node = Node::new(&mut stand, "gpu-01", Booted::new(1)).await;
    // Nothing was said: there is nothing to draft from.
    let none = client(&stand, &["profile", "capture", "gpu-01"]).await;
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
    let nobody = client(&stand, &["profile", "capture", "gpu-09"]).await;
    assert_eq!(nobody.status.code(), Some(5), "{}", text(&nobody.stderr));

    assert_eq!(node.say().await.verdict, "affirming");
    let one = client(&stand, &["profile", "capture", "gpu-01"]).await;
    let (draft, said) = (text(&one.stdout), text(&one.stderr));
    assert_eq!(one.status.code(), Some(0), "{said}");
    assert!(said.contains("one boot only"), "{said}");
    assert!(draft.contains("# NOTE: seen in one boot only"), "{draft}");
    assert!(draft.contains("\n\"5\" = ["), "{draft}");

    // The second boot differs in register 5, as every boot of this firmware does.
    let mut node = node.reboot(&stand, Booted::new(2)).await;
    assert_eq!(node.say().await.verdict, "affirming");
    assert_eq!(node.say().await.verdict, "affirming");
    let out = stand.dir.path().join("draft.toml");
    let words = ["profile", "capture", "gpu-01", "--name", "r17", "--out"];
    let words = [words.as_slice(), &[out.to_str().unwrap()]].concat();
    let two = client(&stand, &words).await;
    let said = text(&two.stderr);
    assert_eq!(two.status.code(), Some(0), "{said}");
    assert!(!said.contains("one boot only"), "{said}");
    let draft = std::fs::read_to_string(out).unwrap();
    assert!(draft.contains("# Drafted from 2 boots"), "{draft}");
    assert!(!draft.contains("\n\"5\" = ["), "{draft}");
    assert!(
        draft.contains("#   tpm.pcr.sha256.5: 2 values in 2 boots"),
        "{draft}"
    );
    for claim in [
        "boot.secure_boot",
        "boot.command_line",
        "boot.initrd",
        "boot.dbx",
    ] {
        let line = format!("claim = \"{claim}\"\n");
        assert!(draft.contains(&line), "{claim}: {draft}");
    }

    // Signed, it is what the node is held against.
    stand.profile = draft;
    let manifest = stand.bring(&entry("gpu-01", &node.machine)).await;
    node.enforces(&stand, manifest);
    let accepted = node.say().await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
    let mut node = node.reboot(&stand, Booted::new(3)).await;
    let accepted = node.say().await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);

    // And each boot of something else is refused by name.
    type Edit = fn(&mut Booted);
    let rows: [(&str, Edit, &[&str]); 4] = [
        (
            "another command line",
            |booted| booted.command_line.push_str(" init=/bin/sh"),
            &["boot.command_line", "init=/bin/sh", "tpm.pcr.sha256.8"],
        ),
        (
            "another initrd",
            |booted| booted.initrd.push(1),
            &["boot.initrd", "tpm.pcr.sha256.9"],
        ),
        (
            "Secure Boot off",
            |booted| booted.secure_boot = false,
            &["boot.secure_boot", "tpm.pcr.sha256.7"],
        ),
        (
            "a boot log with an event left out",
            |booted| booted.hide = Some(4),
            &["boot.log.pcr.4"],
        ),
    ];
    for (number, (name, edit, want)) in (4..).zip(rows) {
        let mut booted = Booted::new(number);
        edit(&mut booted);
        node = node.reboot(&stand, booted).await;
        let accepted = node.say().await;
        let reasons = accepted.reasons.join("\n");
        assert_eq!(accepted.verdict, "contraindicated", "{name}: {reasons}");
        for word in want {
            assert!(reasons.contains(word), "{name}, {word}: {reasons}");
        }
    }
}

/// One node that stays, one that would turn, two of which nobody can tell, and nothing changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_which_nodes_would_turn_and_changes_nothing() {
    let mut stand = Stand::new().await;
    let mut other = Booted::new(1);
    other.command_line.push_str(" quiet");
    let boots = [Booted::new(1), other, Booted::new(1)];
    let machines: Vec<Machine> = boots
        .iter()
        .zip(1..)
        .map(|(booted, number)| {
            let tools = booted.extends();
            let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
            stand.machine_quoting(&format!("gpu-0{number}"), &tools, &REGISTERS)
        })
        .collect();
    let never = stand.machine("gpu-04");
    let mut inventory = entry("gpu-04", &never);
    for (machine, number) in machines.iter().zip(1..) {
        inventory.push_str(&entry(&format!("gpu-0{number}"), machine));
    }
    let manifest = stand.apply(&inventory).await;
    let mut nodes = Vec::new();
    for (mut machine, booted) in machines.into_iter().zip(boots) {
        stand.meet(&mut machine);
        let enrolled = machine.enroll(&stand.maker).await;
        let stream = machine.stream(&enrolled).await.unwrap();
        let last = machine.statement(&stand, Some(manifest));
        nodes.push(Node {
            machine,
            booted,
            stream,
            last,
            logs_sent: false,
        });
    }
    // The third never brings its logs along.
    nodes[2].logs_sent = true;
    for node in &mut nodes {
        let accepted = node.say().await;
        assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
    }
    let draft = stand.dir.path().join("new.toml");
    let path = draft.to_str().unwrap();
    let drafted = client(&stand, &["profile", "capture", "gpu-01", "--out", path]).await;
    assert_eq!(drafted.status.code(), Some(0), "{}", text(&drafted.stderr));

    let before = client(&stand, &["nodes", "--output", "json"]).await.stdout;
    let plan = |more: &'static [&'static str]| {
        let words = [&["profile", "plan", "-f", path, "--output", "json"], more].concat();
        let stand = &stand;
        async move {
            let told = client(stand, &words).await;
            let rows: Vec<serde_json::Value> = serde_json::from_slice(&told.stdout).unwrap();
            let row = |row: &serde_json::Value| {
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                [text("node"), text("change"), text("then"), text("because")]
            };
            let rows: Vec<[String; 4]> = rows.iter().map(row).collect();
            (told.status.code(), rows, text(&told.stderr))
        }
    };
    let (code, rows, said) = plan(&["--all"]).await;
    assert_eq!(code, Some(3), "{said}");
    let short: Vec<[&str; 3]> = rows
        .iter()
        .map(|[node, change, then, _]| [node.as_str(), change, then])
        .collect();
    let want = [
        ["gpu-01", "stays", "affirming"],
        ["gpu-02", "would-turn", "contraindicated"],
        ["gpu-03", "cannot-tell", "none"],
        ["gpu-04", "cannot-tell", ""],
    ];
    assert_eq!(short, want, "{rows:?}");
    assert!(rows[3][3].contains("never enrolled"), "{rows:?}");
    assert!(rows[1][3].contains("boot.command_line"), "{rows:?}");
    assert!(rows[1][3].contains("quiet"), "{rows:?}");
    assert!(rows[2][3].contains("boot-log-missing"), "{rows:?}");
    assert!(said.contains("of 4 nodes 1 would turn"), "{said}");
    let after = client(&stand, &["nodes", "--output", "json"]).await.stdout;
    assert_eq!(text(&before), text(&after), "nothing is changed by asking");
    // What stays is told only where it is asked for.
    let (_, rows, _) = plan(&[]).await;
    assert_eq!(rows.len(), 3, "{rows:?}");

    // A window that opens tomorrow, asked today and for tomorrow.
    let text_of = std::fs::read_to_string(&draft).unwrap();
    let line = "is = \"root=/dev/vda ro lockdown=integrity\"\n";
    assert!(text_of.contains(line), "{text_of}");
    let both = "provenance = \"measured\"\n[[require.any]]\nis = \"root=/dev/vda ro lockdown=integrity\"\n\
                not_after = \"2100-01-01T00:00:00Z\"\n[[require.any]]\nis = \"root=/dev/vda ro \
                lockdown=integrity quiet\"\nnot_before = \"2099-01-01T00:00:00Z\"\n";
    let windowed = text_of.replace(&format!("{line}provenance = \"measured\"\n"), both);
    assert_ne!(windowed, text_of);
    // Register 8 holds the command line too, and so does what GRUB ran.
    let blocks: Vec<&str> = windowed.split("[[require]]\n").collect();
    let blocks: Vec<&str> = blocks
        .into_iter()
        .filter(|block| !block.starts_with("claim = \"boot.grub_commands\""))
        .collect();
    let windowed: String = blocks
        .join("[[require]]\n")
        .lines()
        .filter(|line| !line.starts_with("\"8\" = "))
        .map(|line| format!("{line}\n"))
        .collect();
    std::fs::write(&draft, windowed).unwrap();
    for (when, change) in [
        ("2098-01-01T00:00:00Z", ["stays", "would-turn"]),
        ("2099-06-01T00:00:00Z", ["stays", "stays"]),
        ("2100-06-01T00:00:00Z", ["would-turn", "stays"]),
    ] {
        let words = ["profile", "plan", "-f", path, "--all", "--at", when];
        let words = [words.as_slice(), &["--output", "json"]].concat();
        let told = client(&stand, &words).await;
        let rows: Vec<serde_json::Value> = serde_json::from_slice(&told.stdout).unwrap();
        let found = [&rows[0]["change"], &rows[1]["change"]];
        assert_eq!(found, change, "{when}: {rows:?}");
    }
    // Bytes that are no profile are refused before anybody is asked.
    std::fs::write(&draft, "name = 1\n").unwrap();
    let refused = client(&stand, &["profile", "plan", "-f", path]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
}

/// What changed between two points of time, and since the node was last affirmed.
#[tokio::test(flavor = "multi_thread")]
async fn drift_is_told_by_the_names_of_things() {
    let mut stand = Stand::new().await;
    let mut node = Node::new(&mut stand, "gpu-01", Booted::new(1)).await;
    let early = ["node", "diff", "gpu-01", "--from", "1000"];
    let none = client(&stand, &early).await;
    assert_eq!(none.status.code(), Some(1), "{}", text(&none.stderr));
    assert_eq!(node.say().await.verdict, "affirming");
    let draft = client(&stand, &["profile", "capture", "gpu-01"]).await;
    stand.profile = text(&draft.stdout);
    let manifest = stand.bring(&entry("gpu-01", &node.machine)).await;
    node.enforces(&stand, manifest);
    let accepted = node.say().await;
    assert_eq!(accepted.verdict, "affirming", "{:?}", accepted.reasons);
    let then = bailiwick_collector::clock::now().millis() / 1000 + 1;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;

    let mut booted = Booted::new(1);
    booted.command_line.push_str(" init=/bin/sh");
    booted.initrd.push(1);
    let mut node = node.reboot(&stand, booted).await;
    assert_eq!(node.say().await.verdict, "contraindicated");
    let then = then.to_string();
    let words = [
        "node", "diff", "gpu-01", "--from", &then, "--output", "json",
    ];
    let told = client(&stand, &words).await;
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&told.stdout).unwrap();
    let told: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| {
            (
                row["subject"].as_str().unwrap(),
                row["how"].as_str().unwrap(),
            )
        })
        .collect();
    let want = [
        ("command line", "with \"init=/bin/sh\""),
        ("boot.grub_commands", "is another"),
        ("initrd", "is another"),
        ("register 8", "is another"),
        ("register 9", "is another"),
    ];
    assert_eq!(told, want);
    // The same two times the other way round tell the reverse, and one time alone tells nothing.
    let words = [
        "node", "diff", "gpu-01", "--from", &then, "--to", &then, "--output", "json",
    ];
    let told = client(&stand, &words).await;
    assert_eq!(text(&told.stdout).trim(), "[]", "{}", text(&told.stderr));

    let why = client(&stand, &["node", "why", "gpu-01"]).await;
    let why = text(&why.stdout);
    for line in [
        "changed since it was last affirmed",
        "in an earlier boot",
        "command line with \"init=/bin/sh\"",
        "initrd is another",
        "registers 8, 9",
        "is the word of root on that machine",
    ] {
        assert!(why.contains(line), "{line}: {why}");
    }
}
