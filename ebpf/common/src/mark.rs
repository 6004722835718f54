//! The bits of a packet's mark in which a port writes whose packet it is, for the uplink to read.
//!
//! The lower bits hold the subject's number plus one, those that are left the end of the number of
//! the policy that gave it: a packet that crosses a swap is nobody's, not another study's.

/// Bits that number a subject, where the mask has as many: [`crate::policy::SUBJECTS`] and one.
pub const NUMBER_BITS: u8 = 10;

/// Where in the mark, as the agent derives it from the mask.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Marking {
    /// All bits that are ours; 0: marks say nothing.
    pub mask: u32,
    /// The lowest of them.
    pub shift: u8,
    /// How many of them number the subject, from the lowest.
    pub number_bits: u8,
    /// How many are ours.
    pub bits: u8,
    /// Zero.
    pub reserved: u8,
}
const _: () = assert!(size_of::<Marking>() == 8);

impl Marking {
    /// For a mask of bits side by side.
    #[must_use]
    pub fn new(mask: u32) -> Self {
        let byte = |number: u32| u8::try_from(number).unwrap_or(0);
        let bits = byte(mask.count_ones());
        Self {
            mask,
            shift: byte(mask.trailing_zeros()) & 31,
            number_bits: bits.min(NUMBER_BITS),
            bits,
            reserved: 0,
        }
    }

    /// `mark` with our bits saying that it is this subject's; `None` for a number too high.
    #[inline(always)]
    #[must_use]
    pub fn write(&self, mark: u32, generation: u64, subject: u32) -> Option<u32> {
        let number = u64::from(subject) + 1;
        let width = u64::from(self.number_bits & 31);
        if number >> width != 0 {
            return None;
        }
        let [.., a, b, c, d] = (generation << width).wrapping_add(number).to_be_bytes();
        let field = u32::from_be_bytes([a, b, c, d]) << (self.shift & 31);
        Some(mark ^ ((mark ^ field) & self.mask))
    }

    /// The subject a port of this policy wrote there.
    #[inline(always)]
    #[must_use]
    pub fn read(&self, mark: u32, generation: u64) -> Option<u32> {
        let number =
            ((mark & self.mask) >> (self.shift & 31)) & !(u32::MAX << (self.number_bits & 31));
        let subject = number.checked_sub(1)?;
        let again = self.write(mark, generation, subject)?;
        (again == mark).then_some(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_by_the_policy_that_wrote_it() {
        for mask in [0xfff0_0000, 0x0000_0fff, 0x00ff_f000, u32::MAX, 0xff00_0000] {
            let marking = Marking::new(mask);
            for generation in [1, 2, 3, 4, 7, u64::MAX] {
                for subject in [0, 1, 200, 254] {
                    for rest in [0, 0x5555_5555, u32::MAX] {
                        let mark = marking.write(rest, generation, subject).unwrap();
                        assert_eq!(mark & !mask, rest & !mask, "others' bits stay");
                        assert_eq!(marking.read(mark, generation), Some(subject), "{mask:#x}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_port_of_this_policy_wrote_is_nobodys() {
        let marking = Marking::new(0xfff0_0000);
        let mark = marking.write(0, 5, 7).unwrap();
        for (name, mark, generation) in [
            ("another policy", mark, 6),
            ("one policy before", mark, 4),
            ("no mark", 0, 5),
            ("bits of others", 0x000f_ffff, 5),
            ("the policy's bits alone", mark & 0xc000_0000, 5),
        ] {
            assert_eq!(marking.read(mark, generation), None, "{name}");
        }
        assert_eq!(Marking::new(0).read(mark, 5), None, "no mask");
        assert_eq!(Marking::new(0).write(0, 5, 7), None, "no mask");
        let wide = marking.write(0, 5, 1022);
        assert!(wide.is_some());
        for (name, mask, subject) in [
            ("beyond ten bits", 0xfff0_0000, 1023),
            ("beyond eight", 0xff00_0000, 255),
            ("no number", 0xfff0_0000, u32::MAX),
        ] {
            assert_eq!(Marking::new(mask).write(0, 5, subject), None, "{name}");
        }
    }
}
