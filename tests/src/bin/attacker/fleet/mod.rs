//! A fleet of nodes that are programs, for what happens to a collector when many fail at once.
//!
//! Nobody's attack by itself: it enrols over real TLS, signs with keys that approvers of the test
//! listed, and attests as agents do. It reads a step a line from stdin and answers each with a
//! JSON object: `attest`, `register` or `fence` (what is wrong), and which nodes; `peers`; `hang-up`.

mod node;
mod soft;

use std::io::{BufRead as _, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bailiwick_collector::direct::read_approvers;
use bailiwick_policy::manifest::{MANIFEST, Manifest};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::node::{Fault, Node, Seen, Terms, tally};

/// Nodes that speak at one moment: each waits for the collector's answer.
const AT_ONCE: usize = 16;
/// What follows an answer comes at once; this is for a machine that is busy.
const SETTLE: Duration = Duration::from_millis(1500);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Any agent's configuration: deployment, collector and approvers are the fleet's too
    #[arg(long)]
    config: PathBuf,
    /// How many nodes
    #[arg(long)]
    nodes: u16,
    /// The study whose addresses they host
    #[arg(long)]
    study: String,
    /// What a clean boot leaves in a register, `INDEX=HEX`
    #[arg(long = "pcr", value_parser = register)]
    registers: Vec<(usize, [u8; 32])>,
}

fn register(text: &str) -> Result<(usize, [u8; 32]), String> {
    let (index, value) = text.split_once('=').ok_or("not INDEX=HEX")?;
    let value = hex::decode(value).map_err(|why| why.to_string())?;
    let index = index.parse().map_err(|_why| "not an index")?;
    let value = value.try_into().map_err(|_length| "not 32 bytes")?;
    Ok((index, value))
}

/// Every node; `None` while it is being asked.
#[derive(Debug)]
struct Fleet {
    terms: Terms,
    nodes: Vec<Option<Node>>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let approvers = read_approvers(&config.policy.approvers, config.policy.threshold)?.digest();
    let terms = Terms {
        config,
        study: args.study.clone(),
        registers: args.registers.clone(),
        approvers,
    };
    let nodes = (0..args.nodes).map(|number| Ok(Some(Node::new(number, &terms)?)));
    let nodes = nodes.collect::<anyhow::Result<Vec<_>>>()?;
    let mut fleet = Fleet { terms, nodes };
    let entries: String = fleet.nodes.iter().flatten().map(Node::entry).collect();
    say(&json!({"inventory": entries}))?;
    loop {
        let line = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let line = line.await?.context("read a step")?;
        if line.is_empty() {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["peers"] => json!({"peers": fleet.witness()?.seen().peers}),
            ["hang-up"] => {
                let nodes = fleet.nodes.iter_mut().flatten();
                nodes.for_each(Node::hang_up);
                json!({})
            }
            [step, folder, from, to] => {
                let fault = match *step {
                    "attest" => Fault::None,
                    "register" => Fault::Register,
                    "fence" => Fault::Fence,
                    other => bail!("no step {other:?}"),
                };
                let whom = from.parse()?..to.parse()?;
                fleet.attest(Path::new(folder), whom, fault).await?
            }
            _ => bail!("no step {line:?}"),
        };
        say(&answer)?;
    }
}

impl Fleet {
    /// The first one, which looks at its peers.
    fn witness(&self) -> anyhow::Result<&Node> {
        self.nodes.iter().flatten().next().context("a node")
    }

    /// Has nodes attest once each, and counts what each of them was told for it.
    async fn attest(
        &mut self,
        folder: &Path,
        whom: Range<usize>,
        fault: Fault,
    ) -> anyhow::Result<Value> {
        let manifest = std::fs::read(folder.join(MANIFEST)).context("read the manifest")?;
        let manifest = Manifest::parse(&manifest)?;
        let before = self.told(whom.clone());
        let mut waiting = whom.clone();
        let (mut tasks, mut answers) = (JoinSet::new(), Vec::new());
        loop {
            while tasks.len() < AT_ONCE
                && let Some(index) = waiting.next()
            {
                let node = self.nodes.get_mut(index).and_then(Option::take);
                let mut node = node.with_context(|| format!("node {index}"))?;
                node.follow(&manifest)?;
                let terms = self.terms.clone();
                tasks.spawn(async move {
                    let answer = node.attest(&terms, fault).await;
                    (index, node, answer)
                });
            }
            let Some(done) = tasks.join_next().await else {
                break;
            };
            let (index, node, answer) = done?;
            answers.push(answer.with_context(|| node.name.clone())?);
            if let Some(place) = self.nodes.get_mut(index) {
                *place = Some(node);
            }
        }
        tokio::time::sleep(SETTLE).await;
        let after = self.told(whom);
        let nodes = |what: fn(&Seen) -> u64| {
            let each = before.iter().zip(&after);
            each.filter(|(before, after)| what(after) > what(before))
                .count()
        };
        Ok(json!({
            "asked": answers.len(),
            "verdicts": tally(&answers),
            "granted": nodes(|seen| seen.granted),
            "ended": nodes(|seen| seen.ended),
            "outward": nodes(|seen| seen.outward),
        }))
    }

    fn told(&self, whom: Range<usize>) -> Vec<Seen> {
        let nodes = self.nodes.get(whom).unwrap_or_default();
        nodes.iter().flatten().map(Node::seen).collect()
    }
}

fn say(answer: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}").context("write to stdout")?;
    out.flush().context("write to stdout")
}
