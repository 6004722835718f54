//! What GRUB ran, and what of it is the kernel's command line.
//!
//! GRUB hashes a text alone, and says only beside it whether that was a command or the line of a kernel.
//! Whoever hands the log over may say otherwise, and may have had GRUB run anything as a command that does
//! nothing. What he cannot do is start a kernel without the command that loads it, and the line right
//! behind that. So the line is told where every text is known, every command is one that starts nothing,
//! and whatever was loaded was loaded with the same line.

/// What GRUB puts before a text that it hashes, beside the digest; the last ones RHEL 8 does.
const LABELS: [&[u8]; 6] = [
    b"kernel_cmdline: ",
    b"grub_cmd: ",
    b"module_cmdline: ",
    b"grub_kernel_cmdline ",
    b"grub_cmd ",
    b"grub_module_cmdline ",
];
/// Commands that load Linux: what follows is the path of the kernel and its line.
const LINUX: [&str; 3] = ["linux", "linux16", "linuxefi"];
/// Turns a command's result round, and runs it.
const NOT: &str = "!";
/// Commands that start nothing and leave measuring as it is, and functions of distributions' menus, whose
/// commands are measured each. Any other may have started another kernel, or ended the measuring (`rmmod
/// tpm`).
const HARMLESS: &[&str] = &[
    "[",
    ".",
    "background_color",
    "background_image",
    "badram",
    "blscfg",
    "boot",
    "break",
    "clear",
    "configfile",
    "continue",
    "decrement",
    "echo",
    "export",
    "false",
    "font",
    "fwsetup",
    "gfxmode",
    "gptpriority",
    "halt",
    "hiddenentry",
    "hwmatch",
    "increment",
    "initrd",
    "initrd16",
    "initrdefi",
    "initrdfail",
    "insmod",
    "keymap",
    "keystatus",
    "list_env",
    "load_env",
    "load_video",
    "loadfont",
    "loopback",
    "ls",
    "menuentry",
    "normal",
    "play",
    "probe",
    "read",
    "reboot",
    "recordfail",
    "regexp",
    "return",
    "save_env",
    "savedefault",
    "search",
    "search.file",
    "search.fs_label",
    "search.fs_uuid",
    "serial",
    "set",
    "setparams",
    "shift",
    "sleep",
    "smbios",
    "source",
    "submenu",
    "terminal_input",
    "terminal_output",
    "test",
    "true",
    "unset",
    "videoinfo",
];

/// The texts of a log, in order.
#[derive(Debug, Default)]
pub(super) struct Ran {
    texts: Vec<String>,
    /// Something was measured that no text is known of.
    hidden: bool,
}

impl Ran {
    /// Takes note of one event: `proven` tells whether bytes are what was measured.
    pub(super) fn measured(&mut self, data: &[u8], proven: impl Fn(&[u8]) -> bool) {
        let narrow = data.strip_suffix(&[0]).unwrap_or(data);
        let label = LABELS.iter().find_map(|label| narrow.strip_prefix(*label));
        let text = label.unwrap_or(narrow);
        let ended = [text, &[0]].concat();
        match std::str::from_utf8(text) {
            Ok(text) if proven(text.as_bytes()) || proven(&ended) || proven(data) => {
                self.texts.push(text.to_owned());
            }
            _ => self.hidden = true,
        }
    }

    /// Whether GRUB says that it hashed a text.
    pub(super) fn is_labelled(data: &[u8]) -> bool {
        LABELS.iter().any(|label| data.starts_with(label))
    }

    /// GRUB had no part in this boot.
    pub(super) const fn is_none(&self) -> bool {
        self.texts.is_empty() && !self.hidden
    }

    /// The line of the kernel that was started, its path first; `None`: the texts leave more than one
    /// answer, or none.
    pub(super) fn kernel_line(&self) -> Option<&str> {
        if self.hidden {
            return None;
        }
        let mut found: Option<&str> = None;
        let mut texts = self.texts.iter();
        while let Some(text) = texts.next() {
            let (word, rest) = command(text);
            if !LINUX.contains(&word) {
                if is_harmless(word) {
                    continue;
                }
                return None;
            }
            // One that is cut short, or was not there to be loaded, is another text.
            let line = texts.next().filter(|line| unquoted(line) == unquoted(rest));
            let line = line.filter(|line| found.is_none_or(|before| before == *line))?;
            found = Some(line);
        }
        found.filter(|line| is_plain(line))
    }

    /// The texts but the kernel's line; `None`: not all of them are known.
    pub(super) fn commands(&self) -> Option<impl Iterator<Item = &str>> {
        let line = self.kernel_line();
        let texts = self.texts.iter().map(String::as_str);
        (!self.hidden).then(|| texts.filter(move |text| Some(*text) != line))
    }
}

/// A text's command and what follows it.
fn command(text: &str) -> (&str, &str) {
    let mut rest = text;
    loop {
        let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            NOT => rest = after,
            word => return (word, after),
        }
    }
}

/// One that starts nothing: known to, or `NAME=VALUE`.
fn is_harmless(word: &str) -> bool {
    let name = word.split_once('=').map(|(name, _)| name);
    let plain = |name: &str| {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !name.is_empty() && name.chars().all(part)
    };
    HARMLESS.contains(&word) || name.is_some_and(plain)
}

/// Printable, so that nothing in it ends a line or parts words but what looks so.
pub(super) fn is_plain(line: &str) -> bool {
    line.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Without what GRUB quotes a word with.
fn unquoted(text: &str) -> String {
    text.replace(['"', '\'', '\\'], "")
}

#[cfg(test)]
mod unit {
    use super::*;

    /// Of texts that are all proven, whatever stood before them.
    fn ran(texts: &[&str]) -> Ran {
        let mut ran = Ran::default();
        for text in texts {
            ran.measured(text.as_bytes(), |_| true);
        }
        ran
    }

    const GOOD: &str = "kernel_cmdline: /vmlinuz ro lockdown=integrity";
    const LOAD: &str = "grub_cmd: linux /vmlinuz ro lockdown=integrity";
    const LINE: &str = "/vmlinuz ro lockdown=integrity";

    #[test]
    fn the_line_is_the_one_that_was_loaded() {
        let rows: &[(&str, &[&str], Option<&str>)] = &[
            (
                "as GRUB does it",
                &["set x=1", "a_1=b", LOAD, GOOD, "initrd /i", "boot"],
                Some(LINE),
            ),
            (
                "without labels",
                &["linux /vmlinuz ro lockdown=integrity", LINE],
                Some(LINE),
            ),
            (
                "linux16",
                &["linux16 /vmlinuz", "/vmlinuz"],
                Some("/vmlinuz"),
            ),
            (
                "linuxefi",
                &["linuxefi /vmlinuz", "/vmlinuz"],
                Some("/vmlinuz"),
            ),
            ("turned round", &["! linux /k ro", "/k ro"], Some("/k ro")),
            ("and again", &["! ! linux /k ro", "/k ro"], Some("/k ro")),
            ("twice the same", &[LOAD, GOOD, LOAD, GOOD], Some(LINE)),
            (
                "a menu that has other kernels",
                &["menuentry x {\n linux /old\n}", LOAD, GOOD],
                Some(LINE),
            ),
            (
                "a word of several",
                &["linux /vmlinuz a=b c", "/vmlinuz \"a=b c\""],
                Some("/vmlinuz \"a=b c\""),
            ),
            ("nothing", &[], None),
            ("no kernel", &["set x=1"], None),
        ];
        for (name, texts, want) in rows {
            assert_eq!(ran(texts).kernel_line(), *want, "{name}");
        }
    }

    /// Each row is a way to have started another kernel, or one with another line, and to say that it was
    /// this one.
    #[test]
    fn no_other_line_passes_for_it() {
        const EVIL: &str = "/vmlinuz evil";
        const LOADS_EVIL: &str = "linux /vmlinuz evil";
        let rows: &[(&str, &[&str])] = &[
            ("a line that nothing loaded", &[GOOD]),
            ("a kernel that got no line", &[LOAD]),
            ("a line before its kernel", &[GOOD, LOAD]),
            ("something between", &[LOAD, "set x=1", GOOD]),
            ("something in its place", &[LOAD, "set x=1"]),
            ("the line as a command", &[LOADS_EVIL, EVIL, GOOD]),
            (
                "loaded with this one after another",
                &[LOADS_EVIL, EVIL, LOAD, GOOD],
            ),
            (
                "loaded with another after this one",
                &[LOAD, GOOD, LOADS_EVIL, EVIL],
            ),
            (
                "the other turned round",
                &[LOAD, GOOD, "! linux /vmlinuz evil", EVIL],
            ),
            (
                "the other timed",
                &[LOAD, GOOD, "time linux /vmlinuz evil", EVIL],
            ),
            ("no argument", &["linux", LOAD, GOOD]),
            (
                "cut short, and the whole as a command",
                &["linux /k ro pad good", "/k ro", "/k ro pad good"],
            ),
            (
                "one word to the kernel, and several by its words",
                &["linux /k a=b c", "/k a=b c", "/k \"a=b c\""],
            ),
            (
                "another program after it",
                &[LOAD, GOOD, "chainloader /evil.efi"],
            ),
            ("another kind of kernel", &[LOAD, GOOD, "multiboot2 /xen"]),
            ("whatever firmware starts next", &[LOAD, GOOD, "exit"]),
            ("nothing measured any more", &[LOAD, GOOD, "rmmod tpm"]),
            ("nor in a shell without words", &[LOAD, GOOD, "normal_exit"]),
            ("by an older name", &[LOAD, GOOD, "legacy_kernel /evil"]),
            ("a name nobody knows", &[LOAD, GOOD, "evil"]),
            ("no name at all", &[LOAD, GOOD, ""]),
            (
                "a name that only looks like one",
                &[LOAD, GOOD, "/vmlinuz=x"],
            ),
            ("a name that is none", &[LOAD, GOOD, "=x"]),
            (
                "the kernel stops reading",
                &["linux /k ro \n x", "/k ro \n x"],
            ),
            (
                "or reads it otherwise",
                &["linux /k ro \u{a0}x", "/k ro \u{a0}x"],
            ),
        ];
        for (name, texts) in rows {
            assert_eq!(ran(texts).kernel_line(), None, "{name}");
        }
    }

    #[test]
    fn what_is_not_known_could_have_been_anything() {
        let mut hides = ran(&[LOAD, GOOD]);
        assert!(hides.kernel_line().is_some() && hides.commands().is_some());
        hides.measured(b"grub_cmd: set x=1\0", |_| false);
        assert_eq!(hides.kernel_line(), None);
        assert!(hides.commands().is_none() && !hides.is_none());
        assert!(Ran::default().is_none() && !ran(&["boot"]).is_none());
        let mut bytes = ran(&[LOAD, GOOD]);
        bytes.measured(b"grub_cmd: set x=\xff\0", |_| true);
        assert!(bytes.kernel_line().is_none() && bytes.commands().is_none());
    }

    #[test]
    fn a_text_is_hashed_with_or_without_its_end_or_its_label() {
        let rows: &[(&[u8], &[u8], Option<&str>)] = &[
            (b"grub_cmd: boot\0", b"boot", Some("boot")),
            (b"grub_cmd: boot", b"boot\0", Some("boot")),
            (b"grub_cmd: boot\0", b"grub_cmd: boot\0", Some("boot")),
            (b"module_cmdline: boot\0", b"boot", Some("boot")),
            (b"kernel_cmdline: boot\0", b"boot", Some("boot")),
            (b"grub_cmd boot\0", b"boot\0", Some("boot")),
            (b"grub_kernel_cmdline boot\0", b"boot", Some("boot")),
            (b"grub_module_cmdline boot\0", b"boot", Some("boot")),
            (b"boot\0", b"boot", Some("boot")),
            (b"grub_cmd: boot\0", b"halt", None),
        ];
        for (data, measured, want) in rows {
            let mut ran = Ran::default();
            ran.measured(data, |bytes| bytes == *measured);
            let found = ran
                .commands()
                .and_then(|mut all| all.next().map(str::to_owned));
            assert_eq!(found.as_deref(), *want, "{data:?}");
        }
    }

    #[test]
    fn commands_are_all_but_the_kernels_line() {
        let told = ran(&["set x=1", LOAD, GOOD]);
        let commands: Vec<&str> = told.commands().unwrap().collect();
        assert_eq!(
            commands,
            ["set x=1", "linux /vmlinuz ro lockdown=integrity"]
        );
        // Nothing goes by being called a line.
        let hides = ran(&["set x=1", "kernel_cmdline: insmod evil", LOAD, GOOD]);
        let commands: Vec<&str> = hides.commands().unwrap().collect();
        let load = "linux /vmlinuz ro lockdown=integrity";
        assert_eq!(commands, ["set x=1", "insmod evil", load]);
    }
}
