//! `[[guest]]`: a guest without a TPM, by the chips it may run on and what has to be launched there.
//!
//! Its processor's report is all it shows. So a launch has to be named, and no two entries may be such
//! that one report is of both.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_attestation::cvm::{GuestIdentity, Launch, LaunchKey, SNP_PREFIX};
use bailiwick_attestation::evidence::guest_id;
use bailiwick_attestation::{FileError, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::{CHIPS, Node, Texts, addresses, chip_fault, device, epoch, is_chip, node_id, words};
use crate::model::{DEVICES_LIMIT, raw};

/// Hexadecimal digits of a measurement, of `ID_KEY_DIGEST`, and of `MRCONFIGID`: 48 bytes.
const DIGITS_48: usize = 96;
/// Hexadecimal digits of `HOST_DATA`: 32 bytes.
const DIGITS_32: usize = 64;
/// Hexadecimal digits of `FAMILY_ID` and `IMAGE_ID`: 16 bytes.
const DIGITS_16: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuest {
    pub(super) name: Spanned<String>,
    chips: Spanned<Texts>,
    measurement: Option<Spanned<String>>,
    next_measurement: Option<Spanned<String>>,
    id_key: Option<Spanned<String>>,
    family_id: Option<Spanned<String>>,
    image_id: Option<Spanned<String>>,
    host_data: Option<Spanned<String>>,
    pub(super) chassis_serial: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) devices: Texts,
    place: Option<Spanned<String>>,
    jurisdiction: Spanned<String>,
    #[serde(default)]
    pub(super) addresses: Texts,
    epoch: Option<Spanned<u64>>,
}

/// Reads one entry by itself.
pub(super) fn guest(file: &TomlFile<'_>, raw: &RawGuest) -> Result<Node, FileError> {
    let name = node_id(file, &raw.name)?;
    let guest = GuestIdentity {
        chips: chips(file, raw)?,
        launch: launch(file, raw)?,
    };
    let mut devices: Vec<String> = raw::rules(file, &raw.devices, DEVICES_LIMIT, own_device)?
        .into_iter()
        .map(|rule| rule.value)
        .collect();
    // Whoever asks where a processor belongs asks the devices.
    devices.extend(guest.chips.iter().cloned());
    devices.sort();
    let maybe_words =
        |text: &Option<Spanned<String>>| text.as_ref().map(|text| words(file, text)).transpose();
    Ok(Node {
        ek: guest_id(&name),
        name,
        guest: Some(guest),
        ak: None,
        chassis_serial: maybe_words(&raw.chassis_serial)?,
        devices,
        place: maybe_words(&raw.place)?,
        jurisdiction: raw::jurisdiction(raw.jurisdiction.get_ref())
            .map_err(|fault| file.error(raw.jurisdiction.span(), fault))?,
        addresses: addresses(file, &raw.addresses)?,
        epoch: epoch(file, raw.epoch.as_ref())?,
        tpm: None,
        geotags_since: None,
        replaces: None,
        confirmed: None,
    })
}

/// Processors stand in `chips`, where all of them are looked for.
fn own_device(text: &str) -> Result<String, String> {
    let words = device(text)?;
    match is_chip(&words) {
        true => Err(format!("{text:?} is a chip, and stands in chips")),
        false => Ok(words),
    }
}

fn chip(text: &str) -> Result<String, String> {
    match chip_fault(text) {
        Some(fault) => Err(fault),
        None if is_chip(text) => Ok(text.to_owned()),
        None => {
            let prefixes = CHIPS.map(|(prefix, _)| format!("{prefix}…")).join(" or ");
            Err(format!("{text:?} is no chip: {prefixes}"))
        }
    }
}

/// Sorted; all of one maker, or a launch would have to be measured in two ways.
fn chips(file: &TomlFile<'_>, raw: &RawGuest) -> Result<Vec<String>, FileError> {
    let mut rules = raw::rules(file, raw.chips.get_ref(), DEVICES_LIMIT, chip)?;
    let Some(first) = rules.first().map(|rule| rule.value.clone()) else {
        let fault = "names no chip: a guest may run on those it names, and on no other";
        return Err(file.error(raw.chips.span(), fault));
    };
    let snp = is_snp(&first);
    if let Some(other) = rules.iter().find(|rule| is_snp(&rule.value) != snp) {
        let fault = format!("{:?} is of another maker than {first:?}", other.value);
        return Err(other.place.error(fault));
    }
    rules.sort_by(|a, b| a.value.cmp(&b.value));
    Ok(rules.into_iter().map(|rule| rule.value).collect())
}

fn is_snp(chip: &str) -> bool {
    chip.starts_with(SNP_PREFIX)
}

fn launch(file: &TomlFile<'_>, raw: &RawGuest) -> Result<Launch, FileError> {
    let mut chips = raw.chips.get_ref().iter();
    let snp = chips.any(|chip| is_snp(chip.get_ref()));
    let hex = |text: &Option<Spanned<String>>, digits| {
        let text = text.as_ref();
        text.map(|text| hexadecimal(file, text, digits)).transpose()
    };
    let launch = Launch {
        measurement: hex(&raw.measurement, DIGITS_48)?,
        next_measurement: hex(&raw.next_measurement, DIGITS_48)?,
        signer: signer(file, raw, snp)?,
        host_data: hex(&raw.host_data, if snp { DIGITS_32 } else { DIGITS_48 })?,
    };
    if launch.measurement.is_none() && launch.signer.is_none() {
        let may = match snp {
            true => "measurement, or id_key with family_id and image_id",
            false => "measurement",
        };
        let fault = format!(
            "{:?} does not say what is launched: name {may}",
            raw.name.get_ref()
        );
        return Err(file.error(raw.name.span(), fault));
    }
    if let Some(next) = &raw.next_measurement {
        let fault = match &launch.measurement {
            None => "says nothing without measurement, whose place it is to take",
            Some(own) if own == next.get_ref() => "is measurement itself",
            Some(_) => return Ok(launch),
        };
        return Err(file.error(next.span(), fault));
    }
    Ok(launch)
}

/// Whoever signs launches says by family and image which of them is meant: a key by itself would let
/// any launch be this guest that is ever signed with it.
fn signer(file: &TomlFile<'_>, raw: &RawGuest, snp: bool) -> Result<Option<LaunchKey>, FileError> {
    let parts = [
        ("id_key", &raw.id_key),
        ("family_id", &raw.family_id),
        ("image_id", &raw.image_id),
    ];
    let Some(first) = parts.iter().find_map(|(_, text)| text.as_ref()) else {
        return Ok(None);
    };
    if !snp {
        let fault = "is of SNP alone: no other processor checks a signature before a launch";
        return Err(file.error(first.span(), fault));
    }
    let (Some(id_key), Some(family), Some(image)) = (&raw.id_key, &raw.family_id, &raw.image_id)
    else {
        let absent = parts.iter().filter(|(_, text)| text.is_none());
        let absent: Vec<&str> = absent.map(|(key, _)| *key).collect();
        let fault = format!("says nothing without {}", absent.join(" and "));
        return Err(file.error(first.span(), fault));
    };
    let key = LaunchKey {
        id_key: hexadecimal(file, id_key, DIGITS_48)?,
        family: hexadecimal(file, family, DIGITS_16)?,
        image: hexadecimal(file, image, DIGITS_16)?,
    };
    if key.id_key.bytes().all(|digit| digit == b'0') {
        let fault = "is what a report says of a launch that nobody signed";
        return Err(file.error(id_key.span(), fault));
    }
    Ok(Some(key))
}

fn hexadecimal(
    file: &TomlFile<'_>,
    text: &Spanned<String>,
    digits: usize,
) -> Result<String, FileError> {
    let own = text.get_ref();
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if own.len() != digits || !own.bytes().all(lower) {
        let fault = format!("{own:?} must be {digits} lower-case hexadecimal digits");
        return Err(file.error(text.span(), fault));
    }
    Ok(own.clone())
}

/// Which parts of a launch an entry names: measurement, signer, host data.
type Kinds = [bool; 3];

/// What an entry names of a launch.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Named<'a> {
    measurement: Option<&'a str>,
    signer: Option<[&'a str; 3]>,
    host_data: Option<&'a str>,
}

impl<'a> Named<'a> {
    /// One, or two while another measurement is to take the place of the first.
    fn of(launch: &'a Launch) -> impl Iterator<Item = Self> {
        let signer = launch.signer.as_ref();
        let first = Self {
            measurement: launch.measurement.as_deref(),
            signer: signer.map(|key| [&key.id_key, &key.family, &key.image].map(String::as_str)),
            host_data: launch.host_data.as_deref(),
        };
        let next = launch.next_measurement.as_deref().map(|next| Self {
            measurement: Some(next),
            ..first
        });
        [first].into_iter().chain(next)
    }

    const fn kinds(&self) -> Kinds {
        [
            self.measurement.is_some(),
            self.signer.is_some(),
            self.host_data.is_some(),
        ]
    }

    fn only(self, [measurement, signer, host_data]: Kinds) -> Self {
        Self {
            measurement: self.measurement.filter(|_| measurement),
            signer: self.signer.filter(|_| signer),
            host_data: self.host_data.filter(|_| host_data),
        }
    }
}

/// No report is of two guests. One is wherever they share a chip and agree in all that both name of the
/// launch: what only one of them names may well be so of the other, too. `guests` are what `raw` says.
pub(super) fn apart(
    file: &TomlFile<'_>,
    raw: &[RawGuest],
    guests: &[Node],
) -> Result<(), FileError> {
    let mut on: BTreeMap<&str, Vec<(&RawGuest, Named<'_>)>> = BTreeMap::new();
    for (raw, guest) in raw.iter().zip(guests) {
        let Some(own) = &guest.guest else {
            continue;
        };
        for chip in &own.chips {
            let named = Named::of(&own.launch).map(|named| (raw, named));
            on.entry(chip).or_default().extend(named);
        }
    }
    for (chip, guests) in on {
        // As many as approvers care to list: looked up by what two kinds of entry have in common, not
        // each compared with each.
        let kinds: BTreeSet<Kinds> = guests.iter().map(|(_, named)| named.kinds()).collect();
        let mut there: BTreeMap<(Kinds, Named<'_>), &RawGuest> = BTreeMap::new();
        for (raw, named) in guests {
            let mut others = kinds.iter();
            let first = others.find_map(|kinds| there.get(&(*kinds, named.only(*kinds))));
            if let Some(first) = first {
                let fault = format!(
                    "{:?} is told from {:?} by nothing on {chip}: one report would be of both; give \
                     each host_data of its own, or other chips",
                    raw.name.get_ref(),
                    first.name.get_ref()
                );
                return Err(file.error(raw.name.span(), fault));
            }
            for kinds in &kinds {
                there.insert((named.kinds(), named.only(*kinds)), raw);
            }
        }
    }
    Ok(())
}
