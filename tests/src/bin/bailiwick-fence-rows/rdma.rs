//! The card in software that rows of RDMA use.

use std::net::Ipv4Addr;

/// Its name.
pub(crate) const CARD: &str = "rxe0";

/// An IPv4 address as RDMA has it: mapped into IPv6, 32 hexadecimal digits.
pub(crate) fn gid_of(address: Ipv4Addr) -> String {
    format!("{:032x}", u128::from(address.to_ipv6_mapped()))
}

#[cfg(test)]
mod tests {
    use super::gid_of;

    #[test]
    fn an_address_has_32_digits() {
        let want = "00000000000000000000ffffc6336407";
        assert_eq!(gid_of([198, 51, 100, 7].into()), want);
    }
}
