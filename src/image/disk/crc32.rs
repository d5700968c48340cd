//! CRC-32 of the Ethernet standard (IEEE 802.3), which the checksums of GPT are (UEFI 2.10, section 5.3.2).

/// The polynomial, bits reversed.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// Returns the checksum of bytes.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ POLYNOMIAL & 0u32.wrapping_sub(sum & 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_algorithm_is_right() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
