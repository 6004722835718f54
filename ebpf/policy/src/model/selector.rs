//! Which cgroups are meant.

use std::fmt;

/// Deepest selector: the fence walks a packet's ancestors in a bounded loop.
const DEPTH_LIMIT: usize = 8;

/// Path of a cgroup below the v2 mount, `*` standing for any run of characters within one
/// component. It means that cgroup and everything below it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selector {
    components: Vec<String>,
}

impl Selector {
    /// Reads `/studies/cardio` or `/kubepods.slice/*cardio*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!(
                "{text:?} is no path below the cgroup mount: begins with no '/'"
            ));
        };
        if rest.is_empty() {
            return Err("\"/\" is the whole host; name a cgroup below it".to_owned());
        }
        let components: Vec<String> = rest.split('/').map(str::to_owned).collect();
        if components.len() > DEPTH_LIMIT {
            return Err(format!("{text:?} is deeper than {DEPTH_LIMIT} components"));
        }
        for component in &components {
            // NAME_MAX is 255 on every file system Linux mounts cgroups on.
            if component.is_empty() || component.len() > 255 {
                return Err(format!(
                    "{text:?} holds a component of {} bytes",
                    component.len()
                ));
            }
            if component == "." || component == ".." {
                return Err(format!("{text:?} holds {component:?}"));
            }
            if component.chars().any(char::is_control) {
                return Err(format!("{text:?} holds a control character"));
            }
        }
        let any = |component: &String| {
            let name = component.strip_suffix(".slice").unwrap_or(component);
            name.chars().all(|c| c == '*')
        };
        if components.iter().all(any) {
            return Err(format!(
                "{text:?} means every cgroup; name at least one component"
            ));
        }
        Ok(Self { components })
    }

    /// Reads a systemd slice: `cardio-train.slice` lies at `/cardio.slice/cardio-train.slice`
    /// (systemd.slice(5): each dash is a level).
    pub fn slice(name: &str) -> Result<Self, String> {
        Self::parse(&slice_path(name)?)
    }

    /// Reads a systemd unit, in `system.slice` where systemd puts it unless told otherwise
    /// (instances of a template in a slice of their own), or `SLICE/UNIT`.
    pub fn unit(text: &str) -> Result<Self, String> {
        let (slice, unit) = match text.split_once('/') {
            Some((slice, unit)) => (slice_path(slice)?, unit),
            None => (default_slice(text), text),
        };
        let known = UNITS.iter().any(|kind| {
            unit.strip_suffix(kind)
                .is_some_and(|name| !name.is_empty() && name != "*")
        });
        if !known || unit.contains('/') {
            return Err(format!(
                "{text:?} is no unit that runs something: NAME.service, NAME.scope, NAME.socket or \
                 NAME.mount, or SLICE/UNIT"
            ));
        }
        Self::parse(&format!("{slice}/{unit}"))
    }

    /// Number of components.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components.len()
    }

    /// The components, outermost first.
    #[must_use]
    pub fn components(&self) -> &[String] {
        &self.components
    }

    /// Whether the path names the selected cgroup itself, not one below it.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut parts = rest.split('/');
        self.components.iter().all(|pattern| {
            parts
                .next()
                .is_some_and(|part| meet(pattern.as_bytes(), part.as_bytes(), false))
        }) && parts.next().is_none()
    }

    /// Whether the path names the selected cgroup or one below it.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else {
            return false;
        };
        let mut parts = rest.split('/');
        self.components.iter().all(|pattern| {
            parts
                .next()
                .is_some_and(|part| meet(pattern.as_bytes(), part.as_bytes(), false))
        })
    }

    /// Whether some cgroup is meant by both, at the same depth or one inside the other.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let mut pairs = self.components.iter().zip(&other.components);
        pairs.all(|(a, b)| meet(a.as_bytes(), b.as_bytes(), true))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.components.iter().try_for_each(|c| write!(f, "/{c}"))
    }
}

/// Kinds of units that have processes and a cgroup of their own.
const UNITS: [&str; 4] = [".service", ".scope", ".socket", ".mount"];

fn slice_path(name: &str) -> Result<String, String> {
    let bad = || format!("{name:?} is no slice: NAME.slice, a dash for each level");
    let stem = name.strip_suffix(".slice").ok_or_else(bad)?;
    if stem.is_empty() || name.contains('/') || stem.split('-').any(str::is_empty) {
        return Err(bad());
    }
    let mut path = String::new();
    let mut so_far = String::new();
    for part in stem.split('-') {
        if !so_far.is_empty() {
            so_far.push('-');
        }
        so_far.push_str(part);
        path.push_str(&format!("/{so_far}.slice"));
    }
    Ok(path)
}

/// `system.slice`, or for an instance of a template `system-TEMPLATE.slice` below it, in which a
/// dash of the template's name is escaped.
fn default_slice(unit: &str) -> String {
    match unit.split_once('@') {
        Some((template, _)) => {
            let template = template.replace('-', "\\x2d");
            format!("/system.slice/system-{template}.slice")
        }
        None => "/system.slice".to_owned(),
    }
}

/// Whether some name fits both. With `both_patterns` unset, `b` is a plain name.
///
/// `row[j]` says whether the rest of `a` from here meets `b[j..]`; at most 255 × 255 steps.
fn meet(a: &[u8], b: &[u8], both_patterns: bool) -> bool {
    let star = |x: u8, pattern: bool| pattern && x == b'*';
    let mut below: Vec<bool> = Vec::new();
    for i in (0..=a.len()).rev() {
        let x = a.get(i).copied();
        let mut row = vec![false; b.len().saturating_add(1)];
        for j in (0..=b.len()).rev() {
            let y = b.get(j).copied();
            let next = |row: &[bool], at: usize| row.get(at).copied().unwrap_or(false);
            let after = j.saturating_add(1);
            let met = match (x, y) {
                (None, None) => true,
                _ if x.is_some_and(|x| star(x, true)) => {
                    next(&below, j) || (y.is_some() && next(&row, after))
                }
                _ if y.is_some_and(|y| star(y, both_patterns)) => {
                    next(&row, after) || (x.is_some() && next(&below, j))
                }
                (Some(x), Some(y)) => x == y && next(&below, after),
                _ => false,
            };
            if let Some(cell) = row.get_mut(j) {
                *cell = met;
            }
        }
        below = row;
    }
    below.first().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_means_one_component_per_star() {
        let cases = [
            ("/studies/cardio", "/studies/cardio", true),
            ("/studies/cardio", "/studies/cardio/task", false),
            ("/studies/cardio", "/studies", false),
            ("/studies/cardio", "/studies/cardiology", false),
            ("/studies/*", "/studies/cardio", true),
            ("/studies/*", "/studies/", true),
            ("/studies/*", "/studies/a/b", false),
            ("/k/pod*-cardio*.slice", "/k/pod12-cardio7.slice", true),
            ("/k/pod*-cardio*.slice", "/k/pod12-neuro7.slice", false),
            ("/k/a**b", "/k/ab", true),
            ("/k/lit", "/k/*", false),
        ];
        for (selector, path, want) in cases {
            let selector = Selector::parse(selector).unwrap();
            assert_eq!(selector.matches(path), want, "{selector} {path}");
        }
    }

    #[test]
    fn a_selector_holds_what_lies_below_it_and_no_look_alike() {
        let cases = [
            ("/studies/cardio", "/studies/cardio", true),
            ("/studies/cardio", "/studies/cardio/task/step", true),
            ("/studies/cardio", "/studies", false),
            ("/studies/cardio", "/studies/cardiology", false),
            ("/studies/cardio", "/user/studies/cardio", false),
            ("/studies/cardio", "studies/cardio", false),
            ("/studies/*", "/studies/a/b", true),
            ("/a/*/c", "/a/b/c/d", true),
            ("/a/*/c", "/a/b/d/c", false),
        ];
        for (selector, path, want) in cases {
            let selector = Selector::parse(selector).unwrap();
            assert_eq!(selector.holds(path), want, "{selector} {path}");
        }
    }

    #[test]
    fn overlap_is_found_through_stars_and_nesting() {
        let cases = [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/c", false),
            ("/a/b", "/a/b/c", true),
            ("/a/*", "/a/b", true),
            ("/a/*x", "/a/y*", true),
            ("/a/*x", "/a/*y", false),
            ("/a/x*", "/a/y*", false),
            ("/a/x*/c", "/a/*z/d", false),
            ("/a/x*/c", "/a/*z", true),
            ("/*/c", "/b/c", true),
        ];
        for (a, b, want) in cases {
            let (left, right) = (Selector::parse(a).unwrap(), Selector::parse(b).unwrap());
            assert_eq!(left.overlaps(&right), want, "{a} {b}");
            assert_eq!(right.overlaps(&left), want, "{b} {a}");
        }
    }

    #[test]
    fn selectors_that_mean_everything_or_nothing_are_refused() {
        for bad in [
            "",
            "a",
            "/",
            "//a",
            "/a/",
            "/a/../b",
            "/a/.",
            "/*",
            "/*/**",
            "/a\n",
            "/1/2/3/4/5/6/7/8/9",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Selector::parse("/a/*").unwrap().to_string(), "/a/*");
    }

    #[test]
    fn slices_and_units_lie_where_systemd_puts_them() {
        let slices = [
            ("cardio.slice", "/cardio.slice"),
            ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"),
            (
                "kubepods-burstable.slice",
                "/kubepods.slice/kubepods-burstable.slice",
            ),
            ("user-1000.slice", "/user.slice/user-1000.slice"),
            ("pod*.slice", "/pod*.slice"),
        ];
        for (name, path) in slices {
            assert_eq!(Selector::slice(name).unwrap().to_string(), path, "{name}");
        }
        let units = [
            ("train.service", "/system.slice/train.service"),
            (
                "train@7.service",
                "/system.slice/system-train.slice/train@7.service",
            ),
            (
                "a-b@7.service",
                "/system.slice/system-a\\x2db.slice/a-b@7.service",
            ),
            ("cardio.slice/train.service", "/cardio.slice/train.service"),
            (
                "a-b.slice/docker-*.scope",
                "/a.slice/a-b.slice/docker-*.scope",
            ),
            ("mnt-data.mount", "/system.slice/mnt-data.mount"),
        ];
        for (name, path) in units {
            assert_eq!(Selector::unit(name).unwrap().to_string(), path, "{name}");
        }
        for bad in [
            "cardio",
            ".slice",
            "-.slice",
            "a--b.slice",
            "a/b.slice",
            "a-.slice",
            "*.slice",
        ] {
            assert!(Selector::slice(bad).is_err(), "{bad:?}");
        }
        for bad in [
            "train",
            ".service",
            "*.service",
            "a.slice/b.slice/c.service",
            "a/b.service",
            "train.timer",
            "a.slice/",
            "a.slice",
        ] {
            assert!(Selector::unit(bad).is_err(), "{bad:?}");
        }
    }

    /// Every name of up to seven of `a` and `b`: long enough to tell patterns of three apart.
    fn names() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..7 {
            let to = all.len();
            for at in from..to {
                all.push(format!("{}a", all[at]));
                all.push(format!("{}b", all[at]));
            }
            from = to;
        }
        all
    }

    #[test]
    fn patterns_meet_where_some_name_fits_both() {
        let mut patterns = vec![String::new()];
        for len in 0..3 {
            let longest: Vec<String> = patterns
                .iter()
                .filter(|p| p.len() == len)
                .cloned()
                .collect();
            patterns.extend(
                longest
                    .iter()
                    .flat_map(|p| ["a", "b", "*"].map(|c| format!("{p}{c}"))),
            );
        }
        let names = names();
        let fits = |pattern: &str| -> Vec<bool> {
            names
                .iter()
                .map(|n| meet(pattern.as_bytes(), n.as_bytes(), false))
                .collect()
        };
        let table: Vec<Vec<bool>> = patterns.iter().map(|p| fits(p)).collect();
        for (a, in_a) in patterns.iter().zip(&table) {
            for (b, in_b) in patterns.iter().zip(&table) {
                let both = in_a.iter().zip(in_b).any(|(x, y)| *x && *y);
                assert_eq!(meet(a.as_bytes(), b.as_bytes(), true), both, "{a:?} {b:?}");
            }
        }
    }
}
