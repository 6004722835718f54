use super::*;

const STUDIES: [(&str, &str); 2] = [
    (
        "studies/cardio.toml",
        "name = \"cardio\"\nmode = \"enforce\"\nselect.slices = [\"cardio.slice\"]\n\
         allow.prefixes = [\"10.0.0.0/8\"]\npeers.addresses = [\"10.9.1.0/24\"]\n",
    ),
    (
        "studies/neuro.toml",
        "name = \"neuro\"\nmode = \"enforce\"\nselect.units = [\"neuro@1.service\"]\n\
         allow.services = [\"ntp\"]\n",
    ),
];

const NTP: &str =
    "[[service]]\nname = \"ntp\"\naddress = \"10.1.0.1/32\"\nprotocol = \"udp\"\nports = \"123\"\n";

fn parse(studies: &[(&str, &str)], host_fence: &str) -> Result<Model, FileError> {
    let studies: Vec<(&str, &[u8])> = studies
        .iter()
        .map(|(path, text)| (*path, text.as_bytes()))
        .collect();
    Model::parse(&Files {
        studies: &studies,
        host_fence: host_fence.as_bytes(),
        sites: b"",
        inventory: b"",
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                   tpm={bank=\"sha256\",require=[0]}\n",
        guest_profile: None,
    })
}

#[test]
fn the_host_fence_is_read_whole() {
    let text = "essentials = [\"dhcp\", \"neighbour-discovery\"]\nethertypes = [\"0x88cc\"]\n\
         translated = [\"10.96.0.0/12\"]\nmanagement.addresses = [\"10.250.0.0/24\"]\n"
        .to_owned()
        + NTP
        + "[[host]]\nname = \"ipmi\"\nunits = [\"ipmi.service\"]\nmanagement = true\n\
           allow.prefixes = [\"10.250.0.0/25\"]\n\
           [[kernel]]\nname = \"nfs\"\naddress = \"10.8.7.1/32\"\nprotocol = \"tcp\"\n\
           ports = \"2049\"\nstudy = \"cardio\"\n\
           [[kernel]]\nname = \"wg\"\naddress = \"10.8.8.1/32\"\nprotocol = \"udp\"\n";
    let model = parse(&STUDIES, &text).unwrap();
    let fence = &model.host_fence;
    let essentials: Vec<&str> = fence
        .essentials
        .iter()
        .map(|rule| rule.value.as_str())
        .collect();
    assert_eq!(essentials, ["dhcp", "neighbour-discovery"]);
    assert_eq!(fence.ethertypes[0].value, 0x88cc);
    assert_eq!(fence.translated[0].value.to_string(), "10.96.0.0/12");
    assert_eq!(fence.management[0].value.to_string(), "10.250.0.0/24");
    let kernel: Vec<(&str, Option<&str>)> = fence
        .kernel
        .iter()
        .map(|entry| {
            let study = entry.study.as_ref().map(|study| study.value.as_str());
            (entry.target.name.as_str(), study)
        })
        .collect();
    assert_eq!(kernel, [("nfs", Some("cardio")), ("wg", None)]);
    assert!(model.hosts[0].management.is_some());
    let selectors = [
        model.studies[0].select[0].value.to_string(),
        model.studies[1].select[0].value.to_string(),
        model.hosts[0].select[0].value.to_string(),
    ];
    assert_eq!(
        selectors,
        [
            "/cardio.slice",
            "/system.slice/system-neuro.slice/neuro@1.service",
            "/system.slice/ipmi.service"
        ]
    );
}

#[test]
fn what_means_nothing_or_two_things_is_refused_by_line() {
    let kernel = |name: &str, address: &str, study: &str| {
        format!(
            "[[kernel]]\nname = \"{name}\"\naddress = \"{address}\"\nprotocol = \"tcp\"\n\
             ports = \"2049\"\n{study}\n"
        )
    };
    let host =
        |rest: &str| format!("[[host]]\nname = \"ipmi\"\nunits = [\"ipmi.service\"]\n{rest}");
    let rows: &[(&str, String, &str)] = &[
        (
            "an essential nobody knows",
            "essentials = [\"arp\"]\n".to_owned(),
            "host-fence.toml:1: essentials: \"arp\" is none of neighbour-discovery, dhcp, groups, icmp-errors, tcp-resets",
        ),
        (
            "no ethertype",
            "ethertypes = [\"88cc\"]\n".to_owned(),
            "host-fence.toml:1: ethertypes: \"88cc\" is no ethertype, such as \"0x88cc\"",
        ),
        (
            "a length",
            "ethertypes = [\"0x05ff\"]\n".to_owned(),
            "host-fence.toml:1: ethertypes: 0x05ff is a length, and no ethertype",
        ),
        (
            "IPv4 past the judge",
            "ethertypes = [\"0x0800\"]\n".to_owned(),
            "host-fence.toml:1: ethertypes: 0x0800 needs no naming: IPv4 and IPv6 are judged by address, ARP passes",
        ),
        (
            "a tag past the judge",
            "ethertypes = [\"0x8100\"]\n".to_owned(),
            "host-fence.toml:1: ethertypes: 0x8100 is a tag: what it wraps is judged",
        ),
        (
            "a management plane that is also translated",
            "translated = [\"10.250.0.0/16\"]\nmanagement.addresses = [\"10.250.0.0/24\"]\n"
                .to_owned(),
            "host-fence.toml:2: management.addresses: 10.250.0.0/24 of the management plane overlaps 10.250.0.0/16 of what is translated (host-fence.toml:1: translated)",
        ),
        (
            "a study's address in the management plane",
            "management.addresses = [\"10.9.1.7/32\"]\n".to_owned(),
            "host-fence.toml:1: management.addresses: 10.9.1.7/32 of the management plane overlaps 10.9.1.0/24 of a study's own addresses (studies/cardio.toml:5: peers.addresses)",
        ),
        (
            "a group",
            "translated = [\"224.0.0.0/24\"]\n".to_owned(),
            "host-fence.toml:1: translated: 224.0.0.0/24 is a group's, and cannot be of what is translated",
        ),
        (
            "a service of a study's in the management plane",
            "management.addresses = [\"10.1.0.0/24\"]\n".to_owned(),
            "studies/neuro.toml:4: allow.services: 10.1.0.1/32 is of the management plane (host-fence.toml:1: management.addresses), which no study reaches",
        ),
        (
            "a prefix of a study's in the management plane",
            "management.addresses = [\"10.0.0.0/8\"]\n".to_owned(),
            "host-fence.toml:1: management.addresses: 10.0.0.0/8 of the management plane overlaps 10.9.1.0/24 of a study's own addresses (studies/cardio.toml:5: peers.addresses)",
        ),
        (
            "let into nothing",
            host("management = true\n"),
            "host-fence.toml:10: host.management: there is no management plane: name management.addresses",
        ),
        (
            "a host service that selects nothing",
            "[[host]]\nname = \"ipmi\"\n".to_owned(),
            "host-fence.toml:8: host.name: selects nothing: name at least one cgroup, slice or unit",
        ),
        (
            "a host service of the kernel's name",
            host("").replace("\"ipmi\"", "\"kernel\""),
            "host-fence.toml:8: host.name: \"kernel\" means the host's own kernel; take another name",
        ),
        (
            "no such study",
            kernel("nfs", "10.8.7.1/32", "study = \"oncology\""),
            "host-fence.toml:12: kernel.study: \"oncology\" is no study",
        ),
        (
            "two studies at one target",
            kernel("a", "10.8.7.0/24", "study = \"cardio\"")
                + &kernel("b", "10.8.7.1/32", "study = \"neuro\""),
            "host-fence.toml:14: kernel.name: 10.8.7.1/32 overlaps 10.8.7.0/24 of a (host-fence.toml:8: kernel.name), which serves another",
        ),
        (
            "a study and the host at one target",
            kernel("a", "10.8.7.0/24", "study = \"cardio\"") + &kernel("b", "10.8.7.1/32", ""),
            "host-fence.toml:14: kernel.name: 10.8.7.1/32 overlaps 10.8.7.0/24 of a (host-fence.toml:8: kernel.name), which serves another",
        ),
        (
            "one name twice",
            kernel("a", "10.8.7.0/24", "") + &kernel("a", "10.8.9.0/24", ""),
            "host-fence.toml:14: kernel.name: \"a\" is also the name in host-fence.toml:8: kernel.name",
        ),
    ];
    for (name, text, want) in rows {
        // Keys stand before the first table.
        let text = if text.starts_with('[') {
            format!("{NTP}\n{text}")
        } else {
            format!("{text}{NTP}")
        };
        let got = parse(&STUDIES, &text).unwrap_err().to_string();
        assert_eq!(got, *want, "{name}");
    }
    let fits = kernel("a", "10.8.7.0/24", "study = \"cardio\"")
        + &kernel("b", "10.8.7.1/32", "study = \"cardio\"");
    parse(&STUDIES, &(NTP.to_owned() + &fits)).unwrap();
}
