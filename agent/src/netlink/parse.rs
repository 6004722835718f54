//! Messages and attributes, taken apart: no length in them is trusted. In a file of its own, which the
//! fuzz target takes in.

/// Of a message, as far as anybody looks.
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) number: u32,
}

/// The first message, and what follows it.
pub(crate) fn split(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let (header, _) = bytes.split_first_chunk::<16>()?;
    let [l0, l1, l2, l3, k0, k1, _, _, n0, n1, n2, n3, ..] = *header;
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    let (message, _) = bytes.split_at_checked(length)?;
    let body = message.get(16..)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let header = Header {
        kind: u16::from_ne_bytes([k0, k1]),
        number: u32::from_ne_bytes([n0, n1, n2, n3]),
    };
    Some((header, body, rest))
}

/// The attributes of a message or of another attribute: type without its flags, and value. Ends at
/// the first that is not whole.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<4>()?;
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are the uppermost bits.
        Some((u16::from_ne_bytes([k0, k1]) & 0x3fff, value))
    })
}

/// The first four bytes.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Up to the zero byte at the end.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(value.get(..end.unwrap_or(value.len())).unwrap_or_default())
        .into_owned()
}
