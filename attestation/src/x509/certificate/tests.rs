//! Parts of a certificate as makers write them, and what is no such part.

use super::*;

#[test]
fn constraints_are_read_as_makers_write_them() {
    let ca = |ca, path_length| Ok(BasicConstraints { ca, path_length });
    for (case, der, want) in [
        ("empty", &[0x30, 0][..], ca(false, None)),
        (
            "cA FALSE, which DER leaves out",
            &[0x30, 3, 1, 1, 0],
            ca(false, None),
        ),
        ("cA TRUE", &[0x30, 3, 1, 1, 0xff], ca(true, None)),
        (
            "cA TRUE, as BER allows",
            &[0x30, 3, 1, 1, 1],
            ca(true, None),
        ),
        (
            "path length",
            &[0x30, 6, 1, 1, 0xff, 2, 1, 0],
            ca(true, Some(0)),
        ),
        (
            "long path",
            &[0x30, 9, 1, 1, 0xff, 2, 4, 0x7f, 0, 0, 0],
            ca(true, Some(0x7f00_0000)),
        ),
    ] {
        assert_eq!(basic_constraints(der), want, "{case}");
    }
    for (case, der) in [
        ("nothing", &[][..]),
        ("cA of no byte", &[0x30, 2, 1, 0]),
        ("cA of two bytes", &[0x30, 4, 1, 2, 0, 0xff]),
        ("negative length", &[0x30, 6, 1, 1, 0xff, 2, 1, 0x80]),
        ("bytes inside", &[0x30, 5, 1, 1, 0xff, 5, 0]),
        ("bytes after", &[0x30, 0, 0]),
    ] {
        assert!(basic_constraints(der).is_err(), "{case}");
    }
}

#[test]
fn usages_are_bits_from_the_left() {
    assert_eq!(key_usage(&[3, 2, 5, 0x20]), Ok(0x20));
    assert_eq!(
        key_usage(&[3, 2, 0, 0x20]),
        Ok(0x20),
        "trailing zeros named"
    );
    assert_eq!(
        key_usage(&[3, 3, 7, 0x08, 0x80]),
        Ok(0x08),
        "with decipherOnly"
    );
    assert_eq!(key_usage(&[3, 1, 0]), Ok(0));
    assert!(key_usage(&[4, 1, 0]).is_err());
}

#[test]
fn criticality_is_read_as_makers_write_it() {
    let list = |boolean: &[u8]| {
        let one = [&[6, 3, 0x55, 0x1d, 0x63], boolean, &[4, 0]].concat();
        let one = [&[0x30, u8::try_from(one.len()).unwrap()], &one[..]].concat();
        let all = [&[0x30, u8::try_from(one.len()).unwrap()], &one[..]].concat();
        let found = extension_list(&mut Walk::new("Extensions", &all)?)?;
        Ok::<_, ParseError>(found.iter().map(|one| one.critical).collect::<Vec<_>>())
    };
    for (boolean, critical) in [
        (&[][..], false),
        (&[1, 1, 0], false),
        (&[1, 1, 0xff], true),
        (&[1, 1, 1], true),
    ] {
        assert_eq!(list(boolean), Ok(vec![critical]), "{boolean:x?}");
    }
    for boolean in [&[1, 0][..], &[1, 2, 1, 1]] {
        let error = list(boolean).unwrap_err();
        assert_eq!(
            (error.structure, error.offset),
            ("Extensions", 9),
            "{boolean:x?}"
        );
    }
}
