//! What a machine calls itself to DHCP servers: UUID, DUID, client identifier. Pure.
//!
//! A UUID is held in the order in which it is written as text (network order: RFC 9562, section 4).

use crate::arch::Arch;

/// DUID types: RFC 8415, section 11.4, and RFC 6355, section 4.
const DUID_LL: u16 = 3;
const DUID_UUID: u16 = 4;

/// The hardware type of Ethernet: RFC 8415, section 11.4 takes those of ARP.
const ETHERNET: u8 = 1;

/// The network interface that EFI's HTTP boot announces, a universal network driver interface (1) of
/// version 3.16: RFC 4578, section 2.2, and RFC 5970, section 3.4.
pub(super) const UNDI: (u8, u8, u8) = (1, 3, 16);

/// The type of a client identifier that holds an IAID and a DUID: RFC 4361, section 6.1.
const NODE_SPECIFIC: u8 = 255;

/// The UUID in a text of 36 characters, as in `/sys/class/dmi/id/product_uuid`; white space around it
/// is passed over. None for anything else, and for all zeros and all ones: firmware without a UUID
/// has these (SMBIOS, section 7.2.1).
pub(super) fn uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.trim_ascii();
    let grouped = text.bytes().enumerate().all(|(at, c)| (c == b'-') == matches!(at, 8 | 13 | 18 | 23));
    if text.len() != 36 || !grouped {
        return None;
    }
    let mut uuid = [0; 16];
    let mut digits = text.chars().filter(|&c| c != '-');
    for byte in &mut uuid {
        let (high, low) = (digits.next()?.to_digit(16)?, digits.next()?.to_digit(16)?);
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    (uuid != [0; 16] && uuid != [0xff; 16]).then_some(uuid)
}

/// The UUID as firmware sends it in option 97, and as SMBIOS 2.6 holds it: the first three fields
/// little-endian. RFC 4578, section 2.3 leaves the order to EFI (UEFI specification, appendix A).
/// The kernel has turned these fields for the text (`dmi_save_uuid` in drivers/firmware/dmi_scan.c).
pub(super) fn firmware_order(uuid: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = uuid;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

/// The machine's DUID: from its UUID (RFC 6355), else from the hardware address of one of its cards,
/// the same for all of its links (DUID-LL: RFC 8415, section 11.4).
pub(super) fn duid(uuid: Option<[u8; 16]>, mac: [u8; 6]) -> Vec<u8> {
    match uuid {
        Some(uuid) => [&DUID_UUID.to_be_bytes(), uuid.as_slice()].concat(),
        None => [&DUID_LL.to_be_bytes(), [0, ETHERNET].as_slice(), &mac].concat(),
    }
}

/// What tells the links of one machine apart, the same at each boot: the end of the hardware address.
pub(super) fn iaid(mac: [u8; 6]) -> [u8; 4] {
    let [_, _, end @ ..] = mac;
    end
}

/// Option 61 from the hardware address: RFC 2132, section 9.14.
pub(super) fn client_id_from_mac(mac: [u8; 6]) -> Vec<u8> {
    [[ETHERNET].as_slice(), &mac].concat()
}

/// Option 61 that names the machine as DHCPv6 does: RFC 4361, section 6.1.
pub(super) fn client_id_from_duid(mac: [u8; 6], duid: &[u8]) -> Vec<u8> {
    [[NODE_SPECIFIC].as_slice(), &iaid(mac), duid].concat()
}

/// HTTP boot of this architecture in IANA's list of processor architecture types: RFC 5970, section 3.3.
pub(super) fn architecture(arch: Arch) -> u16 {
    match arch {
        Arch::X86_64 => 16,
        Arch::Aarch64 => 19,
    }
}

/// The class that EFI firmware names for HTTP boot: UEFI specification, section 24.7.3.
pub(super) fn vendor_class(arch: Arch) -> String {
    let (_, major, minor) = UNDI;
    format!("HTTPClient:Arch:{:05}:UNDI:{major:03}{minor:03}", architecture(arch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
    const TEXT: &str = "33221100-5544-7766-8899-aabbccddeeff";

    #[test]
    fn a_uuid_is_read_as_it_is_written_and_sent_as_firmware_has_it() {
        // The example of SMBIOS 3.0, section 7.2.1: this text, held as 00 11 22 33 44 ... FF.
        let read = uuid(&format!("{}\n", TEXT.to_uppercase())).unwrap();
        assert_eq!(read[..6], [0x33, 0x22, 0x11, 0x00, 0x55, 0x44]);
        assert_eq!(firmware_order(read).map(u32::from).iter().sum::<u32>(), 0x11 * 120);
        assert!(firmware_order(read).is_sorted());
        assert_eq!(firmware_order(firmware_order(read)), read);
    }

    #[test]
    fn what_is_no_uuid_is_none() {
        for text in [
            "",
            "Not Settable",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "33221100-5544-7766-8899-aabbccddeef",
            "33221100-5544-7766-8899-aabbccddeeff0",
            "332211005-544-7766-8899-aabbccddeeff",
            "33221100-5544-7766-8899-aabbccddeefg",
            "33221100-5544-7766-8899-aabbccddee+f",
            "332211005544776688990aabbccddeeff0000",
            "33221100-5544-7766-8899-aabbccddeeé",
        ] {
            assert_eq!(uuid(text), None, "{text}");
        }
    }

    #[test]
    fn identifiers_have_their_types_in_front() {
        assert_eq!(duid(None, MAC), [0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let with_uuid = duid(uuid(TEXT), MAC);
        assert_eq!((with_uuid.len(), &with_uuid[..4]), (18, &[0, 4, 0x33, 0x22][..]));
        assert_eq!(client_id_from_mac(MAC), [1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        let client_id = client_id_from_duid(MAC, &duid(None, MAC));
        assert_eq!(client_id[..9], [255, 0, 0x12, 0x34, 0x56, 0, 3, 0, 1]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = uuid(&text);
        }
    }
}
