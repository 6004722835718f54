//! `bailiwick inspect gpu-chain`.

use std::path::PathBuf;

use bailiwick_attestation::gpu::{Anchors, check_crl, find_path};
use bailiwick_attestation::x509::Certificate;

use super::crls;
use super::file;
use super::report::{Finding, Report};

/// Certificates of a whole chain have 6 KiB.
pub(super) const CHAIN_LIMIT: u64 = 256 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Certificates, PEM or DER: the first is the one asked about, the others may stand on the path.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Certificates that may stand on the path. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    intermediates: Vec<PathBuf>,
    /// Certificates whose keys are trusted, instead of NVIDIA's root for devices. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    roots: Vec<PathBuf>,
    /// Lists of revoked certificates, DER, base64 or PEM. Repeatable.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    crl: Vec<PathBuf>,
    /// The time at which every certificate has to be valid, seconds since 1970. Default: now.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("gpu-chain");
    let at = file::time(args.at)?;
    let anchors = match roots(&args.roots, &mut report)? {
        Some(anchors) => anchors,
        None => Anchors::device(),
    };
    let mut others = Vec::new();
    for path in &args.intermediates {
        others.extend(file::certificates(path, CHAIN_LIMIT, &mut report)?);
    }
    let given = file::certificates(&args.file, CHAIN_LIMIT, &mut report)?;
    let Some((leaf, rest)) = given.split_first() else {
        return Ok(report);
    };
    others.extend_from_slice(rest);
    let (names, lists) = crls::read_all(&args.crl, &mut report)?;
    let path = match find_path(leaf, &others, &anchors, at) {
        Ok(path) => path,
        Err(refused) => {
            for why in refused {
                report.refuse(Finding::from_error(why.code(), &why));
            }
            return Ok(report);
        }
    };
    report.fact("chain", path.names());
    if lists.is_empty() {
        return Ok(report);
    }
    // The path may end below its root, of which then only the key is known.
    let mut roots = Vec::new();
    for file in &args.roots {
        roots.extend(file::certificates(file, CHAIN_LIMIT, &mut report)?);
    }
    let on_path = path.certificates.iter().copied();
    let above: Vec<&Certificate> = on_path.clone().skip(1).chain(&roots).collect();
    let pairs: Vec<(&Certificate, &Certificate)> = on_path
        .filter_map(|subject| {
            let mut issuers = above.iter().filter(|one| one.subject() == subject.issuer());
            Some((subject, *issuers.next()?))
        })
        .collect();
    let mut known = Vec::new();
    for (name, list) in names.iter().zip(&lists) {
        let (good, refused) = check_crl(list, &pairs, at);
        known.extend(good.iter().map(|one| one.subject.subject().label()));
        for why in &refused {
            crls::tell(Some(name), why, &mut report);
        }
    }
    report.fact("not_revoked", known);
    Ok(report)
}

/// The anchors an operator gave, `None` where none were.
pub(super) fn roots(paths: &[PathBuf], report: &mut Report) -> anyhow::Result<Option<Anchors>> {
    if paths.is_empty() {
        return Ok(None);
    }
    let mut given = Vec::new();
    for path in paths {
        given.extend(file::certificates(path, CHAIN_LIMIT, report)?);
    }
    Ok(Some(Anchors::of(&given)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Exit;

    /// When the certificates of the seeds are valid; their lists ended on 2026-02-01.
    const AT: u64 = 1_795_500_000;

    #[test]
    fn a_list_revokes_what_it_names_and_says_nothing_once_it_has_ended() {
        let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // Certificates behind a length of two bytes, then a list.
        for name in ["none", "revoked"] {
            let seed = fs::read(seeds.join("gpu_crl").join(name)).unwrap();
            let (length, rest) = seed.split_first_chunk::<2>().unwrap();
            let (chain, list) = rest.split_at(u16::from_be_bytes(*length).into());
            fs::write(path("chain"), chain).unwrap();
            fs::write(path(name), list).unwrap();
        }
        let other = seeds.join("x509_revocation/none");
        for (name, crl, exit, codes) in [
            ("no list", vec![], Exit::Good, vec![]),
            (
                "one that has ended",
                vec![path("none")],
                Exit::CouldNotTell,
                vec!["crl-expired"],
            ),
            (
                "one that names it",
                vec![path("revoked")],
                Exit::Refused,
                vec!["crl-revoked", "crl-expired"],
            ),
            (
                "one of somebody else",
                vec![other],
                Exit::Refused,
                vec!["crl-not-for-certificate"],
            ),
            (
                "something else",
                vec![path("chain")],
                Exit::Refused,
                vec!["crl-malformed"],
            ),
        ] {
            let report = inspect(&Args {
                file: path("chain"),
                intermediates: Vec::new(),
                roots: vec![path("chain")],
                crl,
                at: Some(AT),
            });
            let report = report.unwrap();
            assert_eq!((report.exit(), report.codes()), (exit, codes), "{name}");
        }
    }
}
