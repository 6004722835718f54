#![no_main]
// A device as devlink describes it, taken apart as the agent does.
#[path = "../../../agent/src/collect/devlink/info.rs"]
mod info;
#[path = "../../../agent/src/netlink/parse.rs"]
#[expect(dead_code, reason = "of the rest another target makes sure")]
mod netlink;

bailiwick_fuzz::fuzz_target!(|data: &[u8]| {
    if let Some(info) = info::Info::read(data) {
        assert!(info.versions.len() <= 64);
        let long = |text: &String| text.chars().count() > 128;
        assert!(
            !info
                .versions
                .iter()
                .any(|(_, name, value)| long(name) || long(value))
        );
        assert!(!long(&info.driver) && !info.serial.as_ref().is_some_and(long));
        let _ = (info.pending(), info.device);
    }
});
