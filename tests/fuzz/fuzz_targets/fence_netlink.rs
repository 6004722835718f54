#![no_main]
// An answer of rtnetlink, taken apart as the fence does: messages, their attributes, and theirs.
#[path = "../../../agent/src/netlink/parse.rs"]
mod parse;

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Some((header, body, others)) = parse::split(rest) {
        assert!(
            others.len() < rest.len(),
            "no end at {} {}",
            header.kind,
            header.number
        );
        rest = others;
        // Behind `struct ifinfomsg` or `tcmsg`, as whoever asks knows.
        for at in [16, 20] {
            let mut seen = 0;
            for (_, value) in parse::attributes(body.get(at..).unwrap_or_default()) {
                seen += 4 + value.len();
                assert!(parse::text(value).len() <= 3 * value.len());
                assert_eq!(parse::number(value).is_some(), value.len() >= 4);
                let inner: usize = parse::attributes(value)
                    .map(|(_, value)| 4 + value.len())
                    .sum();
                assert!(inner <= value.len());
            }
            assert!(seen <= body.len());
        }
    }
});
